"""One pass forward and backward of an architecture beside its namesake of
segmentation-models-pytorch, both with a ResNet-34 and the options that make them the same network.

Three are not the same: DynamicUnet's lean form runs beside their Unet; SegFormer's decoder around
a ResNet is 256 wide in both; and of DeepLab v3+'s two separable convolutions theirs has one at the
size of the coarse map, where the paper has both at a quarter of the image's."""
from __future__ import annotations
from functools import partial

import torch
import torch.nn.functional as F

from bench.topics import Case, Contest, Topic
from segbook.models import seg_model

CLASSES, ENCODER = 12, 'resnet34'
# ours -> (our options, their class, their options)
PAIRS = {
    'fpn': ({}, 'FPN', {}),
    'linknet': (dict(stem_link=True), 'Linknet', {}),
    'pspnet': (dict(shallow=True), 'PSPNet', {}),
    'deeplabv3': ({}, 'DeepLabV3', dict(encoder_output_stride=16)),
    'deeplabv3plus': ({}, 'DeepLabV3Plus', dict(encoder_output_stride=16)),
    'upernet': ({}, 'UPerNet', {}),
    'segformer': ({}, 'Segformer', {}),
    'dynamic_unet_lean': ({}, 'Unet', {}),
}


def theirs(name, options):
    "The network of segmentation-models-pytorch"
    import segmentation_models_pytorch as smp
    return getattr(smp, name)(ENCODER, encoder_weights=None, classes=CLASSES, **options)


def passes(net, x, y):
    "A function that goes forward and backward once"
    net = net.train()
    def run():
        net.zero_grad()
        F.cross_entropy(net(x), y).backward()
    return run


def contest(arch, shape):
    "Both networks on one batch"
    ours, name, others = PAIRS[arch]
    (b, _, h, w), g, nets = shape, torch.Generator().manual_seed(42), {}
    x, y = torch.rand(shape, generator=g), torch.randint(0, CLASSES, (b, h, w), generator=g)
    def ready(who, make):
        torch.manual_seed(42)
        nets[who] = make()
        return passes(nets[who], x, y)
    def facts():
        for k, net in nets.items(): assert net(x).shape == (b, CLASSES, h, w), k
        return dict(million_parameters={k: round(sum(p.numel() for p in net.parameters())/1e6, 2)
                for k, net in nets.items()})
    makers = {f'smp {name}': partial(theirs, name, others),
        f'segbook {arch}': partial(seg_model, arch, CLASSES, encoder=ENCODER, **ours)}
    return Contest({k: partial(ready, k, make) for k, make in makers.items()}, facts, f'smp {name}')


def cases(smoke):
    shape = (2, 3, 64, 64) if smoke else (8, 3, 224, 224)
    return [Case(arch, 'images', shape[0], f'{list(shape)}', partial(contest, arch, shape))
        for arch in (list(PAIRS)[:1] if smoke else PAIRS)]


TOPIC = Topic('namesakes', 'architectures beside those of the same name', 'smp', cases,
    ('segmentation-models-pytorch',), ('architectures', 'encoders.py', 'models.py'), rounds=3)
