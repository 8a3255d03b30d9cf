"What the files of tests share."
import pytest
from PIL import Image


@pytest.fixture(scope='module')
def one_thread():
    """One thread for the tests of a file: small tensors gain nothing from a second; other files
    get back what they had."""
    import torch
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@pytest.fixture
def photos(tmp_path):
    "A folder with the photos a.jpg and b.png, 6 wide and 4 high"
    (tmp_path/'photos').mkdir()
    for n in ('a.jpg', 'b.png'): Image.new('RGB', (6, 4)).save(tmp_path/'photos'/n)
    return tmp_path/'photos'
