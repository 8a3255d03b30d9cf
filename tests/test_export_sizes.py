"torch.export with an unknown height and width: in steps of 32 pixels, and refused in between."
import pytest
import torch

from segbook.models import seg_model


def test_one_exported_network_takes_many_sizes():
    "The network's own answer is the oracle, at sizes that the export has not seen"
    torch.manual_seed(0)
    model = seg_model('dynamic_unet_lean', 3, 'resnet18').eval()
    h, w = (32*torch.export.Dim(o, min=2, max=64) for o in ('rows', 'columns'))
    exported = torch.export.export(model, (torch.rand(1, 3, 96, 128),),
        dynamic_shapes=({2: h, 3: w},), strict=False).module()
    for size in ((64, 96), (160, 224)):
        x = torch.rand(1, 3, *size)
        with torch.no_grad(): assert torch.allclose(exported(x), model(x), atol=1e-5), size
    with pytest.raises((AssertionError, RuntimeError), match='(?i)guard|expected'):
        exported(torch.rand(1, 3, 75, 101))
