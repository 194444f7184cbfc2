"""The Model Center: signed Git tags in, the state of every model version out."""

from modelyard.center.center import Actor, Center, Summary, actor_of
from modelyard.center.keys import Newcomer, init_people
from modelyard.center.people import PEOPLE_FILE, People, Person, parse_people
from modelyard.center.policy import Policy, policy_of
from modelyard.center.registry import Hold, Ignored, Live, Model, Registry, State, Story, VersionState
from modelyard.center.rules import Refusal, fold

__all__ = [
    "Actor",
    "Center",
    "Hold",
    "Ignored",
    "Live",
    "Model",
    "Newcomer",
    "PEOPLE_FILE",
    "People",
    "Person",
    "Policy",
    "Refusal",
    "Registry",
    "State",
    "Story",
    "Summary",
    "VersionState",
    "actor_of",
    "fold",
    "init_people",
    "parse_people",
    "policy_of",
]
