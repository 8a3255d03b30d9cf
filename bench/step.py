"""One training step (forward, loss, backward, optimiser) of both forms of DynamicUnet beside plain
fastai's and segmentation-models-pytorch's Unet with the same encoder.

All get the same batch, cross entropy and Adam; `channels_last` is the order of memory of weights
and images. Other architectures run in `namesakes`."""
from __future__ import annotations
from functools import partial

import torch
import torch.nn.functional as F

from bench.topics import Case, Contest, Topic
from segbook.models import seg_model

CLASSES, NAMED = 12, 'smp Unet'
OURS = 'dynamic_unet', 'dynamic_unet_lean'
ENCODERS = {'resnet18': 'resnet18', 'tf_efficientnet_lite0': 'timm-tf_efficientnet_lite0'}


def smp_unet(encoder, size):
    "segmentation-models-pytorch's Unet"
    import segmentation_models_pytorch as smp
    return smp.Unet(ENCODERS.get(encoder, encoder), encoder_weights=None, classes=CLASSES)


def fastai_unet(encoder, size):
    "The network of fastai's unet_learner; encoders of timm are cut as fastai cuts them"
    import timm
    import torchvision
    from fastai.vision.learner import create_body
    from fastai.vision.models.unet import DynamicUnet
    make = getattr(torchvision.models, encoder, None)
    net = make(weights=None) if make else timm.create_model(encoder, pretrained=False)
    return DynamicUnet(create_body(net, pretrained=False, cut=None), CLASSES, size)


def networks(encoder, size):
    "{contestant: maker of a network}"
    ours = {f'segbook {a}': lambda a=a: seg_model(a, CLASSES, encoder=encoder) for a in OURS}
    return {'smp Unet': lambda: smp_unet(encoder, size),
        'fastai DynamicUnet': lambda: fastai_unet(encoder, size), **ours}


def stepper(net, x, y, last):
    "A function that does one step of training"
    layout = torch.channels_last if last else torch.contiguous_format
    net, x = net.train().to(memory_format=layout), x.contiguous(memory_format=layout)
    opt = torch.optim.Adam(net.parameters(), 1e-4)
    def step():
        opt.zero_grad()
        F.cross_entropy(net(x), y).backward()
        opt.step()
    return step


def contest(encoder, shape, last):
    "All networks with one encoder on one batch"
    (b, _, h, w), g, nets = shape, torch.Generator().manual_seed(42), {}
    x, y = torch.rand(shape, generator=g), torch.randint(0, CLASSES, (b, h, w), generator=g)
    def maker(name, make):
        def ready():
            torch.manual_seed(42)
            nets[name] = make()
            return stepper(nets[name], x, y, last)
        return ready
    def facts():
        with torch.no_grad():
            for k, net in nets.items(): assert net(x).shape == (b, CLASSES, h, w), k
        return dict(million_parameters={k: round(sum(p.numel() for p in net.parameters())/1e6, 2)
                for k, net in nets.items()})
    return Contest({k: maker(k, make) for k, make in networks(encoder, (h, w)).items()}, facts)


def cases(smoke):
    def case(encoder, shape, last, curve, axis):
        at = shape[0] if axis == 'images' else shape[0]*shape[2]*shape[3]
        order = 'channels_last' if last else 'contiguous'
        return Case(f'{encoder}, {curve}, {order}', axis, at, f'{list(shape)}', partial(contest,
                encoder, shape, last))
    if smoke: return [case('resnet18', (2, 3, 32, 32), True, 'small', 'pixels')]
    found = []
    for e in ENCODERS:
        for last in (False, True): found.append(case(e, (4, 3, 96, 128), last, 'a step', 'pixels'))
        found += [case(e, (4, 3, *s), True, 'batch 4', 'pixels') for s in ((48, 64), (96, 128),
                (192, 256))]
        found += [case(e, (n, 3, 96, 128), True, '96x128', 'images') for n in (2, 8, 16)]
    return found


TOPIC = Topic('step', 'one step of training of U-Nets', NAMED, cases,
    ('segmentation-models-pytorch', 'timm'), ('architectures', 'encoders.py', 'models.py'))
