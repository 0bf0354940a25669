"""How to restore, beside the method: its dial, and its own settings as widgets that come and go with the choice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..bfr_core.errors import SettingsError
from ..bfr_core.registry import Config, Method, default_method, methods
from ..bfr_core.settings import Param
from .compat import dynamic_combo, io, option

if TYPE_CHECKING:
    from .models import LoadedRestorer

AS_PUBLISHED = "as published"
"""The choice of no settings of one's own."""

FIDELITY = "fidelity"
"""The setting that every method has, which is a widget of its own."""


def default_config(method: Method) -> Config:
    """Return the config that a node uses where no restorer is connected: the first with weights of its own."""
    return next((config for config in method.configs if config.embedded), method.configs[0])


def param_input(param: Param, *, optional: bool = False) -> Any:
    """Make the widget of a method's setting.

    Args:
        param: as the method declares it.
        optional: graphs that were saved without it run as before.
    """
    fields: dict[str, Any] = {"default": param.default, "tooltip": param.help}
    if optional:
        fields["optional"] = True
    if param.choices:
        return option(io.Combo, param.name, options=list(param.choices), **fields)
    if isinstance(param.default, bool):
        return option(io.Boolean, param.name, **fields)
    kind = io.Int if isinstance(param.default, int) else io.Float
    for name, value in (("min", param.low), ("max", param.high), ("step", param.step)):
        if value is not None:
            fields[name] = int(value) if kind is io.Int else value
    return option(kind, param.name, **fields)


def fidelity_input() -> Any:
    """Return the widget of the dial, which means the same in every method."""
    return param_input(next(param for param in default_method().params if param.name == FIDELITY), optional=True)


def settings_input() -> Any:
    """Return the widget that shows the settings of one method as further widgets.

    It comes last: how many widgets follow it depends on its choice, and pages keep values by position.
    """
    shown = {
        method.id: [
            param_input(param, optional=True)
            for param in method.params_of(default_config(method))
            if param.name != FIDELITY
        ]
        for method in methods().values()
    }
    choices = {AS_PUBLISHED: [], **{name: widgets for name, widgets in shown.items() if widgets}}
    return dynamic_combo(
        "settings",
        choices,
        labels={name: methods()[name].title for name in choices if name != AS_PUBLISHED},
        tooltip="as published: those of the weights. A method: its settings as widgets, for when that method restores; "
        "they begin where its compact weights do",
    )


def chosen_settings(
    loaded: LoadedRestorer, fidelity: float = 0.5, settings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the settings of a restorer as its method takes them.

    Args:
        loaded: what will restore.
        fidelity: of the dial.
        settings: what the host makes of `settings_input`: the choice under its name, and each setting under its own;
            None where a graph was saved without it.

    Raises:
        SettingsError: settings of another method than that of the restorer.
    """
    method = loaded.restorer.method
    # At 0.5 every method is as published, which needs no saying.
    made: dict[str, Any] = {} if fidelity == 0.5 else {FIDELITY: fidelity}
    given = dict(settings or {})
    choice = given.pop("settings", None) or AS_PUBLISHED
    if choice == AS_PUBLISHED:
        return made
    if choice != method.id:
        known = methods().get(choice)
        raise SettingsError(
            f"These settings are not of {method.title}",
            found=f"settings shows those of {known.title if known else choice}, but {method.title} is to restore; "
            "expected settings of the method that restores",
            kept="Nothing was started",
            todo=f"Choose {method.id} or {AS_PUBLISHED!r} in settings, or the other method",
        )
    # Hosts give None for what a prompt leaves out.
    return made | {name: value for name, value in given.items() if value is not None}
