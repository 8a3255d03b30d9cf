"What the files of tests share."
import pytest


@pytest.fixture(scope='module')
def one_thread():
    """One thread for the tests of a file: small tensors gain nothing from a second; other files
    get back what they had."""
    import torch
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)
