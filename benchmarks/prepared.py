"""A setting's data, prepared once for every model that is trained on them."""

from dataclasses import dataclass, field
from pathlib import Path

from torch_geometric.data import HeteroData

from benchmarks.run import prepare
from benchmarks.settings import Setting
from promptmm_pyg.data import Split


@dataclass(frozen=True)
class PreparedSetting:
    """One data set, and where what is trained on it is kept."""

    setting: Setting
    split: Split
    work: Path
    train: HeteroData = field(init=False)

    def __post_init__(self) -> None:
        train = prepare(self.split.train, self.setting)
        object.__setattr__(self, 'train', train)
