"""A worker's slots: what it holds of each model, and which generation a request takes."""

from __future__ import annotations

from modelyard.serving.loading import Served
from modelyard.serving.state import GenerationRecord, Page

__all__ = ["Generation", "Slot", "Slots"]


class Generation:
    """A loaded generation.

    Args:
        record: What it is.
        served: Its model.
    """

    __slots__ = ("headers", "in_flight", "json_prefix", "number", "record", "served", "version")

    def __init__(self, record: GenerationRecord, served: Served) -> None:
        self.record = record
        self.served = served
        self.number = record.number
        self.version = record.version
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

    __slots__ = ("_words", "generations", "name", "word")

    def __init__(self, name: str, index: int, page: Page) -> None:
        self.name = name
        self.generations: dict[int, Generation] = {}
        self._words = page.words
        self.word = page.slot_word(index)

    def take(self) -> Generation | None:
        """Return the committed generation, counted as taken, or None; give it back by `release`."""
        while True:
            number = self._words[self.word]
            generation = self.generations.get(number)
            if generation is not None:
                generation.in_flight += 1
                return generation
            # The word may have moved on between the two look-ups, and the old generation may be gone since.
            if self._words[self.word] == number:
                return None

    @staticmethod
    def release(generation: Generation) -> None:
        """Say that a request which took the generation is answered."""
        generation.in_flight -= 1

    @property
    def committed(self) -> Generation | None:
        """The committed generation, without taking it."""
        return self.generations.get(self._words[self.word])

    @property
    def committed_number(self) -> int:
        """The number that the supervisor committed, whether this worker holds it or not; 0 for none."""
        return self._words[self.word]


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

    def keep(self, name: str, numbers: tuple[int, ...]) -> list[Generation]:
        """Forget all generations of a slot but these, and return what was forgotten; none left, the slot goes too."""
        slot = self.get(name)
        if slot is None:
            return []
        if not numbers:
            self.pop(name)
        return [slot.generations.pop(number) for number in list(slot.generations) if number not in numbers]
