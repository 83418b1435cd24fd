import pytest

import promptmm_pyg


@pytest.mark.parametrize('name', promptmm_pyg.__all__)
def test_every_name_offered_can_be_used(name):
    assert getattr(promptmm_pyg, name) is not None
    assert name in dir(promptmm_pyg)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Trainer'"):
        _ = promptmm_pyg.Trainer
