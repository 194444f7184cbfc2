"""A worker's slots: what it holds of each model, and which generation a request takes."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator

from modelyard.serving.loading import Served
from modelyard.serving.route import HIGHEST, Route, Sampling, Window, label_word, sticky
from modelyard.serving.state import GenerationRecord, Page
from modelyard.serving.stats import Stats

__all__ = ["Generation", "Slot", "Slots"]

QUICK_SECONDS = 0.001


class Generation:
    """A loaded generation.

    Args:
        record: What it is.
        served: Its model.
    """

    __slots__ = ("headers", "in_flight", "json_prefix", "number", "quick", "record", "served", "stats", "version")

    def __init__(self, record: GenerationRecord, served: Served) -> None:
        self.record = record
        self.served = served
        self.number = record.number
        self.version = record.version
        self.quick = served.row_seconds < QUICK_SECONDS
        """Whether a row is predicted so fast that a thread would cost more than the model."""
        self.stats: Stats | None = None
        """What is counted of its answers while it is a canary or a shadow."""
        self.in_flight = 0
        """Requests that took it and are not answered yet; changed by the event loop's thread alone."""
        self.headers = (
            ("x-model", record.model),
            ("x-model-version", record.version),
            ("x-model-generation", str(record.number)),
        )
        self.json_prefix = served.json_prefix(record)


class Slot:
    """The place of one model in a worker.

    Args:
        name: Of the model.
        index: Of the slot in the shared page.
        page: Shared with the supervisor.
    """

    __slots__ = ("_salt", "_salted", "_words", "generations", "labels", "name", "word")

    def __init__(self, name: str, index: int, page: Page) -> None:
        self.name = name
        self.generations: dict[int, Generation] = {}
        self.labels: dict[str, int] = {}
        """As the supervisor told them last; what they route to stands in the page."""
        self._words = page.words
        self._salt = 0
        self._salted = 0
        self.word = page.slot_word(index)

    def take(self, key: str | None = None) -> Generation | None:
        """Return the generation that answers, counted as taken, or None; give it back by `release`.

        Args:
            key: What the client is known by: it gets the same of stable and canary each time. None: each is a draw.
        """
        while True:
            word = self._words[self.word]
            # Without a canary the word is the number itself, and no number is as large as a word with one.
            generation = self.generations.get(word)
            if generation is None and word > HIGHEST:
                generation = self._draw(word, key)
            if generation is not None:
                generation.in_flight += 1
                return generation
            # The word may have moved on between the two look-ups, and the old generation may be gone since.
            if self._words[self.word] == word:
                return None

    def _draw(self, word: int, key: str | None) -> Generation | None:
        route = Route.unpack(word)
        if self._salted != route.canary:
            self._salt = zlib.crc32(f"{self.name}/{route.canary}/".encode())
            self._salted = route.canary
        canary = self.generations.get(route.canary)
        if canary is not None and sticky(self._salt, key) < route.ppm:
            if canary.stats is None:
                canary.stats = Stats()
            return canary
        return self.generations.get(route.stable)

    def take_version(self, version: str) -> Generation | None:
        """Return the generation of a version, counted as taken, or None where none that may answer is held.

        Of several with that version it is the first of: stable, canary, previous, in grace, labelled.

        Args:
            version: Such as `v1.2.0`.
        """
        for number in self.answering():
            generation = self.generations.get(number)
            if generation is not None and generation.version == version:
                generation.in_flight += 1
                return generation
        return None

    def take_label(self, label: str) -> Generation | None:
        """Return the generation that a label names, counted as taken, or None where there is no such label.

        Args:
            label: `stable`, `canary`, or one that was given by hand.
        """
        while True:
            number = self._labelled(label)
            generation = self.generations.get(number)
            if generation is not None:
                if label == "canary" and generation.stats is None:
                    generation.stats = Stats()
                generation.in_flight += 1
                return generation
            if self._labelled(label) == number:
                return None

    def _labelled(self, label: str) -> int:
        if label == "stable":
            return self.route.stable
        if label == "canary":
            return self.route.canary
        wanted = label_word(label)
        first = self.word + Page.LABELS
        for place in range(first, first + 2 * Page.MAX_LABELS, 2):
            if self._words[place] == wanted:
                number = self._words[place + 1]
                # The place may have been given to another label between the two look-ups.
                return number if self._words[place] == wanted else 0
        return 0

    def previous_in_grace(self, generation: Generation) -> Generation | None:
        """Return the generation whose contract was replaced a short time ago, counted as taken, or None.

        Asked for a request that does not fit the generation it took: this one may answer it. For a canary whose
        contract is another one that is the stable generation, as long as it is the canary.

        Args:
            generation: That the request took; it stays taken.
        """
        route = self.route
        if generation.number == route.canary:
            stable = self.generations.get(route.stable)
            if stable is not None and stable.served.contract.inputs != generation.served.contract.inputs:
                stable.in_flight += 1
                return stable
        now = time.monotonic_ns() // 1_000_000
        windows = [Window.unpack(self._words[self.word + Page.GRACE + place]) for place in range(Page.GRACES)]
        for window in sorted(windows, key=lambda window: -window.until):
            before = self.generations.get(window.generation)
            if before is None or before is generation or window.until <= now:
                continue
            if before.served.contract.inputs != generation.served.contract.inputs:
                before.in_flight += 1
                return before
        return None

    def shadow(self) -> Generation | None:
        """Return the shadow where this request is one that it should see, counted as taken, or None."""
        word = self._words[self.word + Page.SHADOW]
        if not word:
            return None
        sampling = Sampling.unpack(word)
        generation = self.generations.get(sampling.generation)
        if generation is None or sticky(0, None) >= sampling.ppm:
            return None
        if generation.stats is None:
            generation.stats = Stats()
        generation.in_flight += 1
        return generation

    @staticmethod
    def release(generation: Generation) -> None:
        """Say that a request which took the generation is answered."""
        generation.in_flight -= 1

    @property
    def has_canary(self) -> bool:
        """Whether a canary answers a share of the requests."""
        return self._words[self.word] > HIGHEST

    @property
    def route(self) -> Route:
        """What the supervisor committed, whether this worker holds it or not."""
        return Route.unpack(self._words[self.word])

    @property
    def sampling(self) -> Sampling:
        """The shadow and its share, whether this worker holds it or not."""
        return Sampling.unpack(self._words[self.word + Page.SHADOW])

    def answering(self) -> Iterator[int]:
        """Yield the numbers of all generations that may answer a client; one that is only prepared is not among them.

        The first is the stable one; a number may come twice.
        """
        words, first = self._words, self.word
        route = self.route
        numbers = [route.stable, route.canary, words[first + Page.PREVIOUS]]
        numbers += [Window.unpack(words[first + Page.GRACE + place]).generation for place in range(Page.GRACES)]
        numbers += words[first + Page.LABELS + 1 : first + Page.LABELS + 2 * Page.MAX_LABELS : 2].tolist()
        return (number for number in numbers if number)

    def held(self, version: str) -> Generation | None:
        """Return the generation that `take_version` would take, without taking it."""
        candidates = (self.generations.get(number) for number in self.answering())
        return next((found for found in candidates if found is not None and found.version == version), None)

    def versions(self) -> tuple[str, ...]:
        """Return the versions that may answer, the stable one first."""
        candidates = (self.generations.get(number) for number in self.answering())
        return tuple(dict.fromkeys(found.version for found in candidates if found is not None))

    @property
    def committed(self) -> Generation | None:
        """The committed generation, without taking it."""
        return self.generations.get(self.route.stable)

    @property
    def committed_number(self) -> int:
        """The number that the supervisor committed, whether this worker holds it or not; 0 for none."""
        return self.route.stable


class Slots(dict[str, Slot]):
    """All slots of a worker, by model name.

    The control thread adds and removes, the event loop reads; each change is one operation on one dictionary.
    """

    def __init__(self, page: Page) -> None:
        super().__init__()
        self.page = page

    def announce(self, name: str, index: int) -> Slot:
        """Return the slot of that name; it is made where it is missing."""
        slot = self.get(name)
        if slot is None:
            slot = self[name] = Slot(name, index, self.page)
        return slot

    def hold(self, name: str, index: int, generation: Generation) -> None:
        """Keep a loaded generation; it answers from the moment its number is committed."""
        self.announce(name, index).generations[generation.number] = generation

    def forget(self, name: str, number: int) -> None:
        """Forget a generation that was prepared and is not to be committed."""
        slot = self.get(name)
        if slot is not None:
            slot.generations.pop(number, None)

    def tell_labels(self, name: str, labels: dict[str, int]) -> None:
        """Take down how the generations of a slot are labelled."""
        slot = self.get(name)
        if slot is not None:
            slot.labels = labels

    def keep(self, name: str, numbers: tuple[int, ...]) -> list[Generation]:
        """Forget all generations of a slot but these, and return what was forgotten; none left, the slot goes too."""
        slot = self.get(name)
        if slot is None:
            return []
        if not numbers:
            self.pop(name)
        return [slot.generations.pop(number) for number in list(slot.generations) if number not in numbers]
