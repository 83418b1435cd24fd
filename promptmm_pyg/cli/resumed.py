"""Whether a run that goes on is the run that was begun."""

from typing import Any

from promptmm_pyg.cli.parsing import UserError


def check_resumed(
    new: dict[str, Any], old: dict[str, Any], *, begun: str, fix: str = ''
) -> None:
    """Raises unless what was begun goes on with the same settings, for as long or
    longer.

    Args:
        new: The present settings.
        old: Those it was begun with.
        begun: What has to be as it was, for the message.
        fix: How to get on otherwise. (default: nothing)
    """
    _check_longer(new['schedule'], old['schedule'])
    differs = _first_difference(old, new)
    if differs is not None:
        where, was, now = differs
        raise UserError(
            f"--resume requires the {begun} begun with ('{where}' was {was}, is {now})"
            f'{fix}'
        )


def _check_longer(new: dict[str, Any], old: dict[str, Any]) -> None:
    """Raises if a run that goes on is to end earlier: what was trained before
    would have had more epochs than what is trained now.
    """
    if new['epochs'] < old['epochs']:
        raise UserError(
            f'--resume may raise --epochs, not lower it (was {old["epochs"]}, is '
            f'{new["epochs"]})'
        )


def _first_difference(
    old: dict[str, Any], new: dict[str, Any], within: str = ''
) -> tuple[str, Any, Any] | None:
    """The first setting that is not what it was, with both values, or ``None``; the
    number of epochs may differ.
    """
    # The run's own file also holds what no option says, such as versions.
    keys = [*new, *(key for key in old if within and key not in new)]
    for key in keys:
        was, value, name = old.get(key), new.get(key), f'{within}{key}'
        if isinstance(value, dict) and isinstance(was, dict):
            found = _first_difference(was, value, f'{name}.')
            if found is not None:
                return found
        elif was != value and name != 'schedule.epochs':
            return name, was, value
    return None
