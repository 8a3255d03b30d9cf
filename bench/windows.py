"""Windows that slide over an image: predict_tiled beside MONAI's sliding_window_inference, with
the same network, windows, overlap, batches and Gaussian weights."""
from functools import partial
from unittest.mock import patch

from bench.topics import Case, Contest, Topic

TILE, OVERLAP, BATCH = 256, 128, 4


def contestants(side):
    import torch
    from segbook.inference import predict_tiled
    from torch import nn
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(), nn.Upsample(scale_factor=2), nn.Conv2d(16, 12, 3, padding=1)).eval()
    x = torch.rand(3, side, side)

    def ours(): return predict_tiled(net, x, TILE, OVERLAP, BATCH, progress=False)

    def monai():
        from monai.inferers import sliding_window_inference
        def run():
            with torch.no_grad():
                return sliding_window_inference(x[None], (TILE, TILE), BATCH, net,
                    overlap=OVERLAP/TILE, mode='gaussian', sigma_scale=.125)[0]
        return run

    def facts():
        "With MONAI's weights, whose floor is higher, the answer has to be MONAI's"
        try:
            from monai.data.utils import compute_importance_map
            theirs = monai()()
        except ImportError: return {}
        weights = compute_importance_map((TILE, TILE), mode='gaussian', sigma_scale=.125)
        with patch('segbook.windows.gaussian_weight', lambda shape, device: weights):
            difference = (ours() - theirs).abs().max().item()
        if difference > 1e-4: raise AssertionError(f'the answers differ by {difference}')
        return {'largest difference with the same weights': float(f'{difference:.1e}')}

    return Contest({'segbook': lambda: ours, 'MONAI': monai}, facts)


def cases(smoke):
    return [Case('a network of three convolutions, 12 classes', 'pixels', side**2,
        f'{side}x{side}, windows of {TILE}, half of them shared', partial(contestants, side))
        for side in ((512,) if smoke else (512, 1024, 2048))]


TOPIC = Topic('windows', 'predictions of a large image by windows', 'segbook', cases,
    packages=('monai',), watched=('windows.py', 'inference.py'), rounds=5)
