"""Pydantic's complaints as faults: a JSON pointer into what was sent, what is wrong there and the way out."""

import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from app.catalog.spec import NAME
from app.errors import Fault, pointer, sentence

MAX_FAULTS = 50
_AT_A_KEY = (
    "missing",
    "extra_forbidden",
)  # their location ends with a key that the value lacks or has too much
_DICTIONARY = re.compile(r"a valid dictionary or .*")
_FORMS = {  # by how a pattern begins
    "^model:": "model:NAME, model:NAME@VERSION, model:NAME@ALIAS, hf:ORG/REPO@COMMIT or "
    "job:ID/checkpoint@best",
    "^dataset:": "dataset:NAME, dataset:NAME@VERSION or hf:ORG/REPO@COMMIT; each may have #SPLIT behind it",
    f"^{NAME}$": "1 to 100 of a-z, 0-9, '.', '_' and '-', a letter or a digit first",
    "^[a-z][a-z0-9_-]": "1 to 64 of a-z, 0-9, '_' and '-', a letter first",
    "^(/": "a JSON pointer into the spec, such as /losses/temperature",
    "^[A-Za-z0-9._-]": "1 to 64 letters, digits, '.', '_' and '-'",
    "^[A-Za-z0-9_.-]": "1 to 64 letters, digits, '_', '.' and '-'",
}
_OURS = re.compile(r"^(Value|Assertion) error, ")


def summary(faults: Sequence[Fault]) -> str:
    first = f"{faults[0].pointer or 'The body'}: {faults[0].detail}"
    return first if len(faults) == 1 else f"{first} And {len(faults) - 1} more."


def faults_in(complaints: Sequence[Mapping[str, Any]], body: Any, form: Any) -> list[Fault]:
    """The complaints' locations begin with body, query, path or header. form: the body's type."""
    places = [_Place.of(complaint, body, form) for complaint in complaints[:MAX_FAULTS]]
    return [place.fault() for place in _without_other_branches(places)]


class _Place:
    """One complaint and where it stands. parents: what the object around it may be meant as."""

    def __init__(self, complaint: Mapping[str, Any], value: Any, form: Any) -> None:
        self.complaint = complaint
        self.kind = str(complaint["type"])
        self.path: list[str] = []
        self.value = value
        self.types = [form]
        self.parents: list[type[BaseModel]] = []

    @classmethod
    def of(cls, complaint: Mapping[str, Any], body: Any, form: Any) -> "_Place":
        where, *location = complaint["loc"]
        if where != "body":
            place = cls(complaint, None, None)
            place.path = [str(part) for part in complaint["loc"]]
            return place
        place = cls(complaint, body, form)
        place._walk(location)
        return place

    def _walk(self, location: list[str | int]) -> None:
        """Follows the location through the value and leaves out pydantic's names of a union's branches."""
        tag = True
        for position, part in enumerate(location, 1):
            at_a_key = position == len(location) and self.kind in _AT_A_KEY
            if isinstance(self.value, Mapping) and tag and part == self.value.get("kind") and not at_a_key:
                tag = False
            elif isinstance(self.value, Mapping) and (part in self.value or at_a_key):
                self._enter(part, self.value.get(part))
                tag = True
            elif isinstance(self.value, list) and isinstance(part, int):
                self._enter(part, self.value[part] if part < len(self.value) else None)
                tag = True

    def _enter(self, part: str | int, value: Any) -> None:
        self.parents = _models(self.types, self.value)
        self.path.append(str(part))
        fields = [_fields(model)[part].annotation for model in self.parents if part in _fields(model)]
        containers = (member for member in _members(self.types) if get_origin(member) in (list, dict))
        self.types = fields or [get_args(container)[-1] for container in containers]
        self.value = value

    @property
    def pointer(self) -> str:
        return pointer(*self.path)

    @property
    def is_wrong_type(self) -> bool:
        no_word = self.kind == "literal_error" and isinstance(self.value, Mapping | list)
        return no_word or self.kind.endswith("_type")

    def fault(self) -> Fault:
        if self.kind.startswith("union_tag"):
            return self._fault_of_kind()
        if self.kind == "extra_forbidden":
            fix = suggest(self.path[-1], {str(name) for model in self.parents for name in _fields(model)})
            return Fault(self.pointer, "unknown_field", "There is no such field here.", fix)
        if self.kind == "missing":
            return Fault(
                self.pointer, self.kind, "This is missing.", f"Add it. {self._description()}".strip()
            )
        if self.kind == "literal_error":
            fix = f"Use {(self.complaint.get('ctx') or {})['expected']}."
            return Fault(self.pointer, "unknown_value", "There is no such value.", fix)
        if self.kind == "string_pattern_mismatch":
            return Fault(self.pointer, self.kind, "It is not written as it should be.", self._form())
        message = _DICTIONARY.sub("a JSON object", _OURS.sub("", str(self.complaint["msg"])))
        detail = sentence(message.replace("Input should", "It should"))
        return Fault(self.pointer, self.kind, detail, self._remedy(message))

    def _fault_of_kind(self) -> Fault:
        place, known = f"{self.pointer}/kind", {_kind(model) for model in _models(self.types, None)} - {""}
        if self.kind == "union_tag_not_found":
            return Fault(place, "missing", "This is missing.", f"Add it: one of {', '.join(sorted(known))}.")
        fix = suggest(str(self.value["kind"]), known)
        return Fault(place, "unknown_kind", "There is no such kind.", fix)

    def _form(self) -> str:
        """What a text has to look like, in words where somebody has found some for its pattern."""
        pattern = str((self.complaint.get("ctx") or {}).get("pattern"))
        known = next((form for start, form in _FORMS.items() if pattern.startswith(start)), "")
        return f"Write {known}." if known else self._description() or f"It has to match {pattern}."

    def _remedy(self, message: str) -> str:
        if self.kind == "timezone_aware":
            return "Write the moment with its zone, as in 2030-12-31T23:00:00Z."
        rule = re.fullmatch(r"Input should be (a valid |an? )?([^,]*)(,.*)?", message)
        size = re.fullmatch(
            r"(String|List|Tuple|Set|Dictionary|Value) should have (at [^,]*?)( after .*)?", message
        )
        remedy = f"Send {rule[1] or 'a value '}{rule[2]}." if rule else f"Send {size[2]}." if size else ""
        way = f"{remedy} {self._description()}".strip()
        return way or f"Correct {self.pointer or 'the body'}; /docs lists what it may hold."

    def _description(self) -> str:
        for model in self.parents:
            if (field := _fields(model).get(self.path[-1])) and field.description:
                return sentence(f"Expected: {field.description}")
        return ""


def _without_other_branches(places: list[_Place]) -> Iterator[_Place]:
    """Of a union, what the branch says that took the value's type, if any did."""
    seen = set()
    for place in places:
        here = place.path
        rivals = [other for other in places if other.path[: len(here)] == here]
        better = any(len(other.path) > len(here) or not other.is_wrong_type for other in rivals)
        if place.is_wrong_type and (better or place.pointer in seen):
            continue
        seen.add(place.pointer)
        yield place


def _members(types: Sequence[Any]) -> Iterator[Any]:
    """Unions and annotations taken apart."""
    for annotation in types:
        if get_origin(annotation) is Annotated:
            yield from _members(get_args(annotation)[:1])
        elif get_origin(annotation) in (Union, UnionType):
            yield from _members(get_args(annotation))
        else:
            yield annotation


def _models(types: Sequence[Any], value: Any) -> list[type[BaseModel]]:
    """The models among the types, or those of them with the value's `kind`."""
    members = _members(types)
    models = [member for member in members if isinstance(member, type) and issubclass(member, BaseModel)]
    kind = value.get("kind") if isinstance(value, Mapping) else None
    return [model for model in models if _kind(model) == kind] or models


def _kind(model: type[BaseModel]) -> str:
    field = _fields(model).get("kind")
    return str(field.default) if field else ""


def _fields(model: type[BaseModel]) -> dict[str | int, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def suggest(name: str, known: AbstractSet[str]) -> str:
    """The way out for who wrote a name that is not known."""
    close = get_close_matches(name[:100], known, n=1)
    listed = f"Known here: {', '.join(sorted(known))}." if known else "Leave it out."
    return f"Did you mean `{close[0]}`? {listed}" if close else listed
