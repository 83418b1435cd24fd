"""Options from signatures and from files of settings.

Nothing heavy is imported here, so that the program starts fast.
"""

import argparse
import difflib
import inspect
import json
import math
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from promptmm_pyg._reading import read_json, read_toml
from promptmm_pyg.limits import LAYERS, TOML_BYTES, WIDTH

Group = argparse.ArgumentParser | argparse._ArgumentGroup
TRAIN = {
    'learning_rate': 'step size of the optimizer; auto grows with the step',
    'weight_decay': 'decay of all parameters by the optimizer',
    'batch_size': 'interactions per step; auto is an eighth of the data, at least 1024',
    'optimizer': "'dense' updates every row of the embedding tables at each step, "
    "'lazy' the rows of the batch; lazy requires a model without propagation (mf)",
    'seed': 'seed of everything random in training',
}
LENGTH = {
    'epochs': 'passes over the training interactions, at most',
    'patience': 'validations without improvement before training stops',
    'monitor': 'validation metric that chooses the best epoch',
    'validate_every': 'epochs between two validations; auto is 5, and 1 for a student '
    'that does not start at random',
    'validation_users': 'users that are validated, at most; of more, a sample',
}
HELP_COLUMNS = 80
"""The help of a command is not wider, in a wider terminal either."""
QUIET = '--quiet  show no progress bar'
# Not printable, but part of words: two joiners and the no-break space.
_HARMLESS = '\u200c\u200d\xa0'
# What to do with the settings; not allowed in a file of settings.
_ACTIONS = ('help', 'config', 'print_config', 'dry_run', 'resume', 'overwrite')


AUTO = 'auto'
_LIMITS = {'embedding_dim': WIDTH, 'out_channels': WIDTH, 'num_layers': LAYERS}
_LIMITS |= {'seed': 2**63 - 1}


class UserError(ValueError):
    """A mistake in what the user typed; only its message is shown."""


def print_json(value: Any) -> None:
    """Prints one JSON document; numbers that are not finite are ``null``."""
    print(json.dumps(_without_nan(value), indent=2, allow_nan=False))


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    is_broken = isinstance(value, float) and not math.isfinite(value)
    return None if is_broken else value


def printable(text: str) -> str:
    """A text without characters that control a terminal; they are shown escaped.

    Example:
        >>> print(printable('caf\xe9 \x1b[31m'))
        café \\x1b[31m
    """
    return ''.join(x if x.isprintable() or x in _HARMLESS else _escape(x) for x in text)


class EscapedStream:
    """A stream that shows control characters escaped, except those of lines.

    Example:
        >>> import sys
        >>> print('red \x1b[31m', file=EscapedStream(sys.stdout))
        red \\x1b[31m
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes a text."""
        lines = re.split(r'([\n\r\t])', text)
        shown = [x if x.isprintable() or x in '\n\r\t' else printable(x) for x in lines]
        count: int = self._stream.write(''.join(shown))
        return count


def _escape(character: str) -> str:
    return character.encode('unicode_escape').decode('ascii')


def _formatter(prog: str) -> argparse.HelpFormatter:
    """Lines as wide as the terminal, and not wider than can be read well."""
    width = min(shutil.get_terminal_size().columns, HELP_COLUMNS) - 2
    return argparse.RawDescriptionHelpFormatter(prog, width=width)


class Parser(argparse.ArgumentParser):
    """Errors are raised as :class:`UserError` instead of ending the program."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault('formatter_class', _formatter)
        kwargs.setdefault('allow_abbrev', False)
        super().__init__(*args, **kwargs)
        self.reads_config = False
        self.config_file: str | None = None
        self.add_more: Callable[[Parser, Sequence[str]], None] | None = None
        """Adds the options that depend on what is typed."""

    def parse_known_args(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        namespace: argparse.Namespace | None = None,
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parses, after the file of ``--config``; unknown options are errors."""
        self.complete(args or ())
        if self.reads_config:
            args = with_config_file(self, list(args or ()))
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown and self._subparsers is None:
            name = unknown[0].partition('=')[0]
            hint = _suggest(name, list(self._option_string_actions), '--')
            self.error(f'unrecognized arguments: {" ".join(unknown)}{hint}')
        return parsed, unknown

    def complete(self, args: Sequence[str]) -> None:
        """Adds the options that depend on ``args``, once."""
        add_more, self.add_more = self.add_more, None
        if add_more is not None:
            add_more(self, args)

    def error(self, message: str) -> NoReturn:
        """Raises instead of printing the usage."""
        if self.config_file is not None:
            message += f" (with the settings in '{self.config_file}')"
        end = '' if message.endswith('?') else '.'
        raise UserError(f"{message}{end} See '{self.prog} --help'")


_FLAG = re.compile(
    r'(?P<flag>--?[\w-]+)(?: (?P<metavar>[A-Z]\w*(?:[.=:]\w+)*)(?P<many>\.{3})?)?'
    r'(?: \[(?P<default>[^]]*)\])?  (?P<help>.*)'
)


def _suggest(name: str, known: list[str], prefix: str = '') -> str:
    """A question about the closest name, if there is one: a part of it counts most."""
    word = name.removeprefix(prefix)
    parts = [x for x in known if f'-{word}-' in f'-{x.removeprefix(prefix)}-']
    parts.sort(key=len)
    close = parts or difflib.get_close_matches(name, known, n=1)
    return f". Did you mean '{close[0]}'?" if close else ''


def add_flags(group: Any, text: str) -> None:
    """Adds options as they are printed: ``--flag METAVAR [default]  help``.

    ``N`` is an integer, ``X`` a number, any other metavar a text; ``METAVAR...`` takes
    several; ``NAME=VALUE`` is a pair, and the flag may be repeated; a flag without a
    metavar is a switch. Indented lines continue the help.

    Example:
        >>> parser = Parser()
        >>> add_flags(parser, '''
        ... -k N [10]  items per user
        ... --json  print JSON,
        ...   for other programs''')
        >>> parser.parse_args(['-k', '3'])
        Namespace(k=3, json=False)
    """
    for line in re.sub(r'\n +', ' ', text.strip()).splitlines():
        match = _FLAG.fullmatch(line)
        if match is None:
            raise ValueError(
                f"'text' must contain lines '--flag METAVAR  help' (got {line!r})"
            )
        if match['metavar'] is None:
            group.add_argument(match['flag'], action='store_true', help=match['help'])
            continue
        default, help_text = match['default'], match['help']
        types: dict[str, Any] = {'N': int, 'X': finite}
        value_type = types.get(match['metavar'], str)
        options: dict[str, Any] = {'nargs': '+'} if match['many'] else {}
        if '=' in match['metavar']:
            action = 'extend' if match['many'] else 'append'
            options |= {'action': action, 'default': []}
            value_type = named
        if default is not None:
            options['default'] = value_type(default)
            help_text = f'{help_text} (default: {default})'.lstrip()
        group.add_argument(
            match['flag'],
            type=value_type,
            metavar=match['metavar'],
            help=help_text,
            **options,
        )


def add_options(
    group: Group,
    function: Callable[..., Any],
    helps: Mapping[str, str],
    rename: Mapping[str, str] | None = None,
) -> None:
    """Adds an option for each named parameter of ``function``, with the type, the
    choices and the default of its signature.
    """
    rename = rename or {}
    parameters = inspect.signature(function).parameters
    is_class = inspect.isclass(function) and not hasattr(function, '_fields')
    hints = get_type_hints(function.__init__ if is_class else function)
    for name, text in helps.items():
        default = parameters[name].default
        dest = rename.get(name, name)
        options: dict[str, Any] = {'default': default, 'dest': dest}
        if isinstance(default, bool):
            options['action'] = argparse.BooleanOptionalAction
        elif get_origin(hints.get(name)) is Literal:
            options['choices'] = get_args(hints[name])
        else:
            given = default not in (None, AUTO)
            kind = type(default) if given else get_args(hints[name])[0]
            limit = _LIMITS.get(name, 10**9)
            types: dict[type, Any] = {int: up_to(limit), float: finite, str: str}
            options['type'] = types[kind] if default != AUTO else or_auto(types[kind])
            options['metavar'] = {int: 'N', float: 'X', str: 'NAME'}[kind]
        flag = f'--{dest.replace("_", "-")}'
        shown = 'none' if default is None else default
        group.add_argument(flag, help=f'{text} (default: {shown})', **options)


def finite(text: str) -> float:
    """The type of an option with a number that is not infinite or NaN."""
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f'must be a finite number (got {text:.40})')
    return value


finite.__name__ = 'float'  # In the message about other text.


def or_auto(number: Callable[[str], Any]) -> Callable[[str], Any]:
    """The type of an option with a number or ``auto``."""

    def parse(text: str) -> Any:
        return AUTO if text == AUTO else number(text)

    parse.__name__ = f"number or '{AUTO}'"  # In the message about other text.
    return parse


def up_to(limit: int) -> Callable[[str], int]:
    """The type of an option with a limited integer."""

    def integer(text: str) -> int:
        value = int(text)
        if value > limit:
            shown = text if len(text) < 40 else f'{len(text)} digits'
            raise argparse.ArgumentTypeError(f'must be at most {limit} (got {shown})')
        return value

    integer.__name__ = 'int'  # In the message about other text.
    return integer


def selected_options(
    args: argparse.Namespace,
    names: Iterable[str],
    rename: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The values of options that :func:`add_options` added, by parameter."""
    rename = rename or {}
    return {name: getattr(args, rename.get(name, name)) for name in names}


def add_training(parser: Parser, **more: str) -> None:
    """Adds the options of :class:`~promptmm_pyg.training.TrainingConfig` and how to
    train: ``--device``, ``--quiet``, ``--config`` and others.
    """
    from promptmm_pyg.training import TrainingConfig

    add_options(parser.add_argument_group('training'), TrainingConfig, TRAIN | more)
    add_options(parser.add_argument_group('length'), TrainingConfig, LENGTH)
    add_device(parser)
    add_flags(
        parser,
        f"""
{QUIET}
--track TRACKER=PLACE  also write metrics to 'tensorboard=FOLDER', 'mlflow=URI' or
  'wandb=PROJECT' (offline, in the current folder); may be repeated""",
    )
    add_config_options(parser)
    add_flags(
        parser,
        """
--dry-run  read the data, build the model, take a few steps and estimate time and
  memory; write nothing""",
    )


def trackers(args: argparse.Namespace) -> tuple[Any, ...]:
    """The trackers of ``--track``, with the settings of the command."""
    from promptmm_pyg.training import MLflowTracker, TensorBoardTracker, WandbTracker

    classes: dict[str, Callable[..., Any]] = {
        'tensorboard': TensorBoardTracker,
        'mlflow': MLflowTracker,
        'wandb': WandbTracker,
    }
    unknown = sorted({name for name, _ in args.track} - set(classes))
    if unknown:
        raise UserError(
            f'--track requires one of {", ".join(classes)} before the = (got '
            f"'{unknown[0]}')"
        )
    params = json.loads(config_text(args)) if args.track else {}
    return tuple(classes[name](place, params=params) for name, place in args.track)


def add_device(parser: Parser) -> None:
    """Adds ``--device``."""
    parser.add_argument(
        '--device',
        type=_device,
        default='cpu',
        help="where to train: 'cpu', 'cuda' or, with several GPUs, 'cuda:1'; the run "
        'can be used anywhere (default: cpu)',
    )


def _device(text: str) -> str:
    import torch

    try:
        is_known = torch.device(text).type in ('cpu', 'cuda')
    except RuntimeError:
        is_known = False
    if not is_known:
        message = f"must be 'cpu', 'cuda' or 'cuda:N' (got {text!r})"
        raise argparse.ArgumentTypeError(message)
    return text


def check_device(name: str) -> str:
    """The name of a device."""
    import torch

    device, count = torch.device(name), torch.cuda.device_count()
    if device.type == 'cuda' and (device.index or 0) >= count:
        raise UserError(
            f"--device '{name}' is not available ({count} GPUs found). Leave it out to "
            f'train on the CPU'
        )
    return name


def add_loss_weights(group: Group, defaults: Mapping[str, float]) -> None:
    """Adds ``--loss-weight NAME=X``, to be read by :func:`loss_weights`."""
    text = ', '.join(f'{name}={value}' for name, value in defaults.items())
    group.add_argument(
        '--loss-weight',
        action='append',
        default=list(defaults.items()),
        type=named,
        metavar='LOSS=X',
        help=f'weight of a loss, may be repeated (default: {text})',
    )


def loss_weights(
    args: argparse.Namespace, defaults: Mapping[str, float]
) -> dict[str, float]:
    """The weights of all losses: those given, and the defaults of the others."""
    weights = dict(defaults)
    for name, value in args.loss_weight:
        if name not in weights:
            raise UserError(
                f"--loss-weight requires one of {sorted(weights)} (got '{name}')"
            )
        try:
            weights[name] = float(value)
        except ValueError as error:
            raise UserError(
                f"--loss-weight {name} must be a number (got '{value}')"
            ) from error
    return weights


def named(text: str) -> tuple[str, str]:
    """The parts of ``NAME=VALUE``."""
    name, sign, value = text.partition('=')
    if not name or not sign:
        message = f"must have the form NAME=VALUE (got '{text}')"
        raise argparse.ArgumentTypeError(message)
    return name, value


def add_config_options(parser: Parser) -> None:
    """Adds ``--config FILE`` and ``--print-config``.

    The file replaces the defaults, and what is typed replaces both; options that
    collect, such as ``--loss-weight``, start with those of the file.
    """
    positional = ', '.join(
        f"{action.metavar} as '{action.dest}'"
        for action in parser._actions
        if not action.option_strings
    )
    group = parser.add_argument_group('settings from a file')
    add_flags(
        group,
        f"""
--config FILE  .json or .toml with options by their long names without the leading
  dashes, {positional}; or the config.json of a run. Typed options win; paths are
  relative to the current folder
--print-config  print all settings as such a file, and do nothing else""",
    )
    parser.reads_config = True
    parser.set_defaults(parser=parser)


def with_config_file(parser: Parser, argv: list[str]) -> list[str]:
    """The words of the file in ``--config``, if any, before those typed, which win."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument('--config')
    if argv[-1:] == ['--config']:
        return argv  # The parser itself reports the missing value.
    path = finder.parse_known_args(argv)[0].config
    if path is None:
        return argv
    parser.config_file = path
    known = _settings(parser)
    words: list[str] = []
    for name, value in read_settings(path).items():
        key = name.replace('_', '-')
        if key not in known:
            raise UserError(_unknown(path, name, list(known)))
        action = known[key]
        if value is None:
            continue
        if action.option_strings:
            words += _words(path, key, action, value)
        else:
            action.nargs, action.default = '?', _word(f"'{path}': '{key}'", value)
            action.required = False
    # An option of one word: the last one of the file may accept several.
    return [*words, f'--config={path}', *argv]


def read_settings(path: str | Path) -> dict[str, Any]:
    """The entries of a ``.json`` or ``.toml`` file, by option."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no file '{path}' of settings")
    if path.suffix not in ('.json', '.toml'):
        raise UserError(f"--config requires a .json or .toml file (got '{path}')")
    try:
        is_toml = path.suffix == '.toml'
        content = read_toml(path, TOML_BYTES) if is_toml else read_json(path)
    except ValueError as error:
        raise UserError(f"'{path}' is not a {path.suffix} file: {error}") from error
    if not isinstance(content, dict):
        raise UserError(
            f"'{path}' must contain options by name, such as "
            f'{{"epochs": 50}} (got a {type(content).__name__})'
        )
    return flags_of_run(content) if is_run_config(content) else content


def config_text(args: argparse.Namespace) -> str:
    """All settings in use, as JSON that ``--config`` reads."""
    settings = {}
    for name, action in _settings(args.parser).items():
        value = getattr(args, action.dest)
        if action.dest == 'loss_weight':
            value = {loss: float(number) for loss, number in value}
        elif action.type is named:
            value = dict(value)
        settings[name] = value
    return json.dumps(settings, indent=2)


def _settings(parser: Parser) -> dict[str, argparse.Action]:
    """The options that a file may hold, by name."""
    settings = {}
    for action in parser._actions:
        if action.dest not in _ACTIONS:
            long = [x for x in action.option_strings if x.startswith('--')]
            name = long[0].removeprefix('--') if long else action.dest
            settings[name] = action
    return settings


def _unknown(path: str, name: str, known: list[str]) -> str:
    if name.replace('-', '_') in _ACTIONS:
        return f"'{path}' must not contain '{name}' (got one). Type it"
    hint = _suggest(name.replace('_', '-'), known) or ". See '--help' for all"
    return f"'{path}' contains '{name}', which is not an option{hint}"


def _words(path: str, key: str, action: argparse.Action, value: Any) -> Iterator[str]:
    """The command line that sets an option to a value."""
    name = f"'{path}': '{key}'"
    if action.nargs == 0:  # A switch.
        if not isinstance(value, bool):
            raise UserError(f'{name} must be true or false (got {value!r})')
        if value:
            yield f'--{key}'
        elif isinstance(action, argparse.BooleanOptionalAction):
            yield f'--no-{key}'
    elif isinstance(value, list) and action.nargs == '+' and action.type is not named:
        yield from (f'--{key}', *(_word(name, inner) for inner in value))
    else:
        for inner in _pairs(name, value) if action.type is named else [value]:
            yield f'--{key}={_word(name, inner)}'


def _pairs(name: str, value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [f'{key}={_word(name, inner)}' for key, inner in value.items()]
    return value if isinstance(value, list) else [value]


def _word(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f'{name} must be a text or a number (got {value!r})')
    return value if isinstance(value, str) else repr(value)


# The sections of config.json whose entries are options of the same name, and the
# options of the other entries.
_SECTIONS = ('distill', 'train', 'losses', 'candidates')
_RENAMED = {'num_neighbors': 'edges_per_hop'}  # Models have another one.
# The names of options of `load_dataset` on the command line.
DATA_FLAGS = {
    name: name.replace('_', '-')
    for name in (
        *('path', 'format', 'duplicates', 'min_rating', 'separator', 'encoding'),
        *('split_column', 'item_ids', 'item_table', 'item_columns'),
        *('user_ids', 'user_table', 'user_columns', 'list_separator', 'drop_columns'),
    )
}
for _name in ('user', 'item', 'time', 'rating', 'weight'):
    DATA_FLAGS[_name] = f'{_name}-column'
DATA_FLAGS |= {'val': 'val-file', 'test': 'test-file'}
_SPLIT = {
    'method': 'split',
    'val_ratio': 'val-ratio',
    'test_ratio': 'test-ratio',
    'seed': 'split-seed',
}


def is_run_config(content: Mapping[str, Any]) -> bool:
    """Whether ``train`` or ``distill`` wrote these settings."""
    is_teacher = isinstance(content.get('data'), dict) and 'teacher' in content
    return is_teacher or isinstance(content.get('distill'), dict)


def flags_of_run(content: Mapping[str, Any]) -> dict[str, Any]:
    """The options, by long name, that lead to the ``config.json`` of a run."""
    flags: dict[str, Any] = {}
    for section in _SECTIONS:
        options = content.get(section, {})
        flags |= {_RENAMED.get(name, name): x for name, x in options.items()}
    of_model = content.get('teacher' if 'data' in content else 'student', {})
    flags |= {f'model_{x}' if x in flags else x: y for x, y in of_model.items()}
    for name in ('teachers', 'teacher_scale'):
        if content.get(name):
            flags[name] = content[name]
    if 'model' in content:
        flags['model' if 'data' in content else 'student'] = content['model']
    if content.get('loss_weights'):
        flags['loss-weight'] = dict(content['loss_weights'])
    if 'data' in content:
        flags |= _data_flags(content['data'])
        prompt, titles = content['prompt'], content.get('titles')
        if prompt is None:
            from promptmm_pyg.models import get_model

            model = get_model(content['model'], allow=False)
            flags |= {'no-prompt': True} if model.reads_prompt else {}
        else:
            flags |= {'prompt-start': prompt['start']}
            flags |= {'prompt-dim': prompt['out_channels']}
            flags |= {'prompt-combine': prompt['combine']}
        if titles is not None:
            flags |= {'titles': titles['path'], 'title-column': titles['title']}
            if titles['item'] is not None:
                flags['item-column'] = titles['item']
    return {name.replace('_', '-'): value for name, value in flags.items()}


def _data_flags(config: Mapping[str, Any]) -> dict[str, Any]:
    if config['format'] == 'synthetic':
        raise UserError(
            'the run is on synthetic data, which no option describes. Name the '
            'config.json of a run on your own data'
        )
    flags = {flag: config[key] for key, flag in DATA_FLAGS.items() if key in config}
    flags['features'] = {k: file or '' for k, file in config['features'].items()}
    flags['padding-row'] = bool(config.get('padding_row'))
    flags['user-features'] = config.get('user_features') or {}
    if 'masks' in config:
        flags['masks'] = config['masks'] or 'none'
    where = config.get('where') or {}
    flags['where'] = {column: ','.join(values) for column, values in where.items()}
    split = config.get('split') or {}
    flags |= {flag: split[key] for key, flag in _SPLIT.items() if key in split}
    for content in config.get('content', []):
        if content['modality'] == 'image':
            flags['images'] = content['path']
        elif content['modality'] == 'user_text':
            in_table = content['kind'] == 'table'
            column = f':{content["column"]}' if in_table else ''
            flags['user-text'] = f'{content["path"]}{column}'
        elif content['kind'] == 'table':
            flags['text'] = f'{content["path"]}:{content["column"]}'
        else:
            flags['text'] = content['path' if content['kind'] == 'text' else 'column']
        name = content['modality'].removeprefix('user_')
        flags[f'{name}-encoder'] = content['encoder']
        if content['cache'] is not None:
            flags['content-cache'] = content['cache']
    return flags
