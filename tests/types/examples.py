"""Python types from which tests make output types."""

from __future__ import annotations

import enum
import typing
from dataclasses import dataclass, field

from pydantic import BaseModel
from typing_extensions import TypedDict


class Person(BaseModel):
    name: str
    age: int | None = None


@dataclass
class Point:
    x: int
    tags: list[str] = field(default_factory=list)


class Movie(TypedDict):
    title: str
    year: typing.NotRequired[int]


class Shelf(TypedDict, total=False):
    movies: typing.Required[list[Movie]]
    best: Movie | None


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"
