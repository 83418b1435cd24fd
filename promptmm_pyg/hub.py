"""Recommenders, soft targets and prompts on the Hugging Face Hub (extra ``hub``)."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from promptmm_pyg._utils import missing_extra

T = TypeVar('T')
_TASK = 'recommendation'
_LIBRARY = 'promptmm_pyg'


def upload(
    path: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    branch: str | None = None,
    create_pr: bool | None = None,
    commit_message: str = 'Upload with promptmm_pyg',
) -> str:
    """Uploads a folder, or one file such as soft targets or a prompt, in one commit,
    and returns its address. The repository is created if there is none.

    Args:
        path: What to upload.
        repo_id: ``'owner/name'``.
        private: Whether a new repository is private. (default: as your account's)
        token: The token of your account. (default: the one of ``hf auth login``)
        branch: The branch to write to. (default: ``'main'``)
        create_pr: Whether to open a pull request instead. (default: no)
        commit_message: The message of the commit.

    Raises:
        ImportError: If ``huggingface_hub`` is not installed.
        FileNotFoundError: If there is nothing at ``path``.
        ConnectionError: If the hub refuses or cannot be reached.
    """
    path, hub = Path(path), _import_hub('upload')
    if not path.exists():
        raise FileNotFoundError(f"'path' must exist (got '{path}')")
    options = {
        'revision': branch,
        'create_pr': create_pr,
        'commit_message': commit_message,
    }

    def send() -> Any:
        api = hub.HfApi(token=token)
        name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if path.is_dir():
            return api.upload_folder(repo_id=name, folder_path=path, **options)
        return api.upload_file(
            repo_id=name, path_or_fileobj=path, path_in_repo=path.name, **options
        )

    return str(_reached(repo_id, send))


def download(
    repo_id: str,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Path:
    """The folder of a repository on this machine, with ``.safetensors`` and ``.json``
    files only. Files that were downloaded before are downloaded again if they have
    changed. No code in them is run.

    Args:
        repo_id: ``'owner/name'``.
        revision: A branch, tag or commit. (default: ``'main'``)
        cache_dir: Where downloads are. (default: the cache of ``huggingface_hub``)
        token: The token of your account. (default: the one of ``hf auth login``)
        force_download: Whether to download unchanged files, too. (default: ``False``)
        local_files_only: Whether to use what was downloaded before only. (default:
            ``False``)

    Raises:
        ImportError: If ``huggingface_hub`` is not installed.
        ConnectionError: If there is no such repository or the hub cannot be reached.
    """
    hub = _import_hub('download')
    cache = Path(cache_dir or hub.constants.HF_HUB_CACHE)
    # Files, not links into the cache: nothing outside of a folder is ever opened.
    name = repo_id.replace('/', '--')
    folder = cache / 'promptmm_pyg' / name / (revision or 'main').replace('/', '--')
    options = {'revision': revision, 'token': token, 'force_download': force_download}
    _reached(
        repo_id,
        lambda: hub.snapshot_download(
            repo_id,
            local_dir=folder,
            local_files_only=local_files_only,
            allow_patterns=['*.safetensors', '*.json'],
            **options,
        ),
    )
    if not any(folder.glob('*.safetensors')):
        raise ConnectionError(
            f"'{repo_id}' must have .safetensors files on the hub or in '{folder}' "
            f'(got none). Check the name'
        )
    return folder


class _Saved(Protocol):
    """What :class:`HubMixin` is mixed into."""

    card: dict[str, Any]

    def save(self, path: str | Path, *, card: Mapping[str, Any] | None = None) -> None:
        """Writes a folder."""


class HubMixin:
    """``save_pretrained``, ``from_pretrained`` and ``push_to_hub`` for a class with
    ``save``, ``load`` and a card.

    The arguments are those of ``huggingface_hub.ModelHubMixin``, which is not a base
    class: recommenders load without it, and are saved atomically with checksums.
    """

    def save_pretrained(
        self: _Saved,
        save_directory: str | Path,
        *,
        card: Mapping[str, Any] | None = None,
        dataset: str | None = None,
    ) -> None:
        """Writes the folder of ``save`` with a model card for the hub: ``README.md``
        has tags, the license and the metrics as ``model-index``.

        Args:
            save_directory: The folder.
            card: Sections of the card, as in ``save``. ``'metrics'`` are numbers by
                name (``'Recall@20'``), perhaps under the name of a split; of several
                models, those of ``'student'`` or else of ``'teacher'`` are used.
            dataset: The name of the data. (default: the card's ``'data'``)

        Raises:
            ImportError: If ``huggingface_hub`` is not installed.
        """
        hub, folder = _import_hub('save_pretrained'), Path(save_directory)
        self.save(folder, card=card)
        name = dataset or self.card.get('data')
        header = _header(hub, self.card, name if isinstance(name, str) else 'unknown')
        readme = folder / 'README.md'
        text = readme.read_text(encoding='utf-8')
        readme.write_text(f'---\n{header}---\n\n{text}', encoding='utf-8')

    def push_to_hub(
        self,
        repo_id: str,
        *,
        card: Mapping[str, Any] | None = None,
        dataset: str | None = None,
        **options: Any,
    ) -> str:
        """Uploads the folder of :meth:`save_pretrained`, and returns the address of the
        commit.

        Args:
            repo_id: ``'owner/name'``.
            card: See :meth:`save_pretrained`.
            dataset: See :meth:`save_pretrained`.
            **options: The other arguments of :func:`~promptmm_pyg.hub.upload`.

        Raises:
            ImportError: If ``huggingface_hub`` is not installed.
            ConnectionError: If the hub refuses or cannot be reached.
        """
        with tempfile.TemporaryDirectory() as folder:
            saved: Any = self
            saved.save_pretrained(folder, card=card, dataset=dataset)
            return upload(folder, repo_id, **options)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        **options: Any,
    ) -> Self:
        """Loads a folder, or a repository of the hub.

        Args:
            pretrained_model_name_or_path: A folder, or ``'owner/name'``.
            revision: See :func:`~promptmm_pyg.hub.download`.
            cache_dir: See :func:`~promptmm_pyg.hub.download`.
            token: See :func:`~promptmm_pyg.hub.download`.
            force_download: See :func:`~promptmm_pyg.hub.download`.
            local_files_only: See :func:`~promptmm_pyg.hub.download`.
            **options: Arguments of ``load``, such as ``device``.

        Raises:
            ImportError: If it is no folder and ``huggingface_hub`` is not installed.
            ConnectionError: If there is no such repository or the hub cannot be
                reached.
            ValueError: As ``load``.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            folder = download(
                str(pretrained_model_name_or_path),
                revision=revision,
                cache_dir=cache_dir,
                token=token,
                force_download=force_download,
                local_files_only=local_files_only,
            )
        loading: Any = cls
        loaded: Self = loading.load(folder, **options)
        return loaded


def _import_hub(caller: str) -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise missing_extra(caller, 'huggingface_hub', 'hub') from error
    return huggingface_hub


def _reached(repo_id: str, call: Callable[[], T]) -> T:
    """The result of a call of the hub; each of its errors becomes one line."""
    try:
        return call()
    except Exception as error:  # Of its own, of its HTTP client, of the system.
        lines = str(error).split('\n')
        reason = ' '.join(f'{type(error).__name__}: {lines[0]}'.split())[:200]
        raise ConnectionError(
            f"'{repo_id}' must be a repository of a hub that can be reached (got "
            f"{reason}). Check name, network and 'hf auth login'; a folder on this "
            f'machine must exist'
        ) from error


def _header(hub: Any, card: Mapping[str, Any], dataset: str) -> str:
    """The lines of YAML that the hub reads."""
    metrics = card.get('metrics', {})
    models = [x for x in ('student', 'teacher') if isinstance(metrics, Mapping)]
    own = next((metrics[x] for x in models if x in metrics), metrics)
    results = [
        hub.EvalResult(
            task_type=_TASK,
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split=split,
            metric_type=name.lower().replace('@', '_at_'),
            metric_name=name,
            metric_value=value,
        )
        for split, name, value in _numbers(own)
    ]
    license_name = card.get('license')
    data = hub.ModelCardData(
        library_name=_LIBRARY,
        tags=[_TASK, 'recommender-system'],
        license=license_name if isinstance(license_name, str) else None,
        model_name=str(card['name']) if results else None,
        eval_results=results or None,
    )
    return f'{data.to_yaml()}\n'


def _numbers(
    metrics: object, split: str | None = None
) -> Iterator[tuple[str | None, str, float]]:
    """Split, name and value of each metric: a number whose name has a cutoff or that is
    in the mapping of a split.
    """
    for name, value in metrics.items() if isinstance(metrics, Mapping) else ():
        if name in ('validation', 'test') and split is None:
            yield from _numbers(value, name)
        elif type(value) in (int, float) and (split or '@' in name):
            yield split, name, value
