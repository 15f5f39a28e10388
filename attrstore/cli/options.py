"""Click's options made from `attrstore.options`, so that no default, choice or help text is written twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, TypedDict

import click

from attrstore.options import kinds_of, options_of

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

    from click.decorators import FC

    from attrstore.options import Option, Options

    Kind = click.ParamType[str] | click.ParamType[float | str] | click.Path | type[float | int | str]

PATH = click.Path(path_type=Path)

MODELS = "Folder of a Hugging Face causal LM, or of a LoRA adapter of one (PEFT); or a GGUF file."
model_option = click.option("--model", required=True, type=PATH, help=MODELS)
encoder_name_option = click.option("--name", help="Of the encoder; made from the recipe if not given.")


class NumberOrWord(click.ParamType[float | str]):
    """A number, or a word that stands for one."""

    name = "number"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        """Return the number, where it is one."""
        try:
            return float(str(value))
        except ValueError:
            return str(value)


class _Common(TypedDict):
    default: object
    help: str


def fields_of(kind: type[Options], *, left_open: bool = False) -> Callable[[FC], FC]:
    """Give a command one option for each field of `kind`; with `left_open`, None stands for what is not given."""

    def decorate(command: FC) -> FC:
        made = list(click_options(kind(), left_open=left_open))
        vars(command).setdefault("__click_params__", []).extend(reversed(made))
        return command

    return decorate


def click_options(
    defaults: Options, *, left_open: bool = False, only: Container[str] | None = None
) -> Iterable[click.Option]:
    """Yield an option for each field, or for those named; its default is that of `defaults`, shown if left open too."""
    kinds = kinds_of(type(defaults))
    options = options_of(type(defaults))
    for name in _own_first(type(defaults)):
        about = options[name]
        if only is None or name in only:
            yield _option(name, about, getattr(defaults, name), kinds[name], left_open)


def _own_first(kind: type[Options]) -> Iterable[str]:
    """Return the names of the options: first those that the class says itself, then those that it shares."""
    options = options_of(kind)
    said = (name for of in kind.__mro__ for name in vars(of).get("__annotations__", ()) if name in options)
    return dict.fromkeys(said)


def _option(
    name: str, about: Option, default: object, kinds: tuple[type, ...], left_open: bool
) -> click.Option:
    flag = f"--{(about.flag or name).replace('_', '-')}"
    text = about.help
    if default is None and about.unset:
        text = f"{text}  [default: {about.unset}]"
    elif left_open and default is not None:
        text = f"{text}  [default: {flag[2:] if default is True else default}]"
    common: _Common = {"default": None if left_open else default, "help": text}
    if Sequence in kinds and str not in kinds:
        return click.Option([flag, name], multiple=True, default=(), metavar=about.metavar, help=text)
    if bool in kinds:
        both = default is True or left_open or NoneType in kinds
        declared = f"{flag}/--no-{flag[2:]}" if both else flag
        return click.Option([declared, name], is_flag=True, show_default=both and not left_open, **common)
    return click.Option(
        [flag, name], type=_type(about, kinds), metavar=about.metavar,
        show_default=default is not None and not left_open, **common,
    )  # fmt: skip


def _type(about: Option, kinds: tuple[type, ...]) -> Kind:
    if about.choices:
        return click.Choice(about.choices)
    if float in kinds:
        return NumberOrWord() if str in kinds else float
    if int in kinds:
        return int
    return PATH if Path in kinds else str
