"""`Parsed`, the type of `ChatMessage.parsed`, which type checkers infer from the output type of a call."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

# At run time, only the type variable is needed, without its default, which Python has since version 3.13.
if TYPE_CHECKING:
    from typing import Any, Protocol

    from typing_extensions import TypeForm as TypeForm
    from typing_extensions import TypeVar as TypeVarWithDefault

    Parsed = TypeVarWithDefault("Parsed", default=Any)
    Parsed_co = TypeVar("Parsed_co", covariant=True)

    class Parser(Protocol[Parsed_co]):
        """An output type that is an object, such as `Choice("yes", "no")`: it parses the text of the output."""

        def parse(self, text: str) -> Parsed_co:
            """Return the output that the text is."""
            ...

else:
    Parsed = TypeVar("Parsed")
