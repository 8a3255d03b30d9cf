"""Things: ids beside the masks, networks that find them, losses and scores, and the command."""
import shutil
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from segbook.architectures import detection
from segbook.architectures.boxes import (
    Instances, instance_targets, mask_in_box, mask_in_image, with_image,
)
from segbook.architectures.panet import BottomUpPath, PoolEveryLevel, panet
from segbook.architectures.panoptic_fpn import laid_in_order, panoptic_fpn, panoptic_picture
from segbook.cli import train as command
from segbook.data import make_cells, seg_dataloaders
from segbook.errors import SegbookError
from segbook.learner import MaskMixUp, seg_learner
from segbook.metrics import AveragePrecision, InstanceAP, PanopticQuality
from segbook.predicted_things import predict_things
from segbook.things import instance_scores, learns_things

SMALL = dict(encoder='mobilenetv3_small_050', width=16, hidden=16, merge_width=8)
BUILDERS = {'panet': panet, 'panoptic_fpn': panoptic_fpn}

@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

@pytest.fixture(scope='module')
def cells(tmp_path_factory):
    return make_cells(tmp_path_factory.mktemp('cells')/'cells', n=10, size=64, seed=1)

def built(arch, n_classes=2, in_channels=1, **kwargs):
    torch.manual_seed(0)
    net = BUILDERS[arch](n_classes, in_channels=in_channels, **{**SMALL, **kwargs})
    net.things.heads.detections_per_img = 40 # a network that knows nothing finds a lot
    return net

def scene(n=3, size=(40, 56)):
    "Ids [1,H,W] of things that do not touch, and a mask of two classes of things"
    ids = torch.zeros(1, *size, dtype=torch.long)
    for k in range(n): ids[0, 4 + 3*k:16 + 3*k, 2 + 17*k:14 + 17*k] = 5*k + 1
    return ids, (ids > 0).long() + (ids > 3).long()

# ---- networks

@pytest.mark.parametrize('arch', BUILDERS)
def test_every_parameter_gets_a_gradient(arch):
    net, (ids, mask) = built(arch, 3), scene()
    for things in (ids, ids*0): # and with no thing in the whole batch
        net.zero_grad()
        loss = net.training_loss(torch.randn(1, 1, 40, 56), mask, things)
        loss.backward()
        assert torch.isfinite(loss) and all(p.grad is not None for p in net.parameters())
        assert all(torch.isfinite(p.grad).all() for p in net.parameters())
    assert net.noted is None

@pytest.mark.parametrize('arch', BUILDERS)
@pytest.mark.parametrize('n, channels, size', [(1, 3, (33, 47)), (2, 1, (1, 1)), (5, 4, (64, 40))])
def test_any_size(arch, n, channels, size):
    net, x = built(arch, n, channels).eval(), torch.randn(2, channels, *size)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with torch.no_grad(): assert net(x).shape == (2, n, *size)
        found = net.instances(x, min_score=0)
        assert [o.masks.shape[1:] for o in found] == [size]*2
        for o in found:
            assert len(o.masks) == len(o.classes) == len(o.scores) == len(o.boxes)
            assert ((o.classes >= 0) & (o.classes < max(2, n))).all()
            assert o.masks.flatten(1).any(1).all() and (o.scores.diff() <= 0).all()
        if arch == 'panoptic_fpn':
            classes, ids = net.panoptic(x)
            assert classes.shape == ids.shape == (2, *size)

@pytest.mark.parametrize('arch', BUILDERS)
def test_modes_and_random_numbers_stay(arch):
    net, (ids, mask) = built(arch, 3), scene()
    x = torch.randn(1, 1, 40, 56)
    net.train()
    net.encoder.eval()
    before = {k: m.training for k, m in net.named_modules()}
    weights = {k: o.clone() for k, o in net.state_dict().items()}
    net.instances(x)
    assert {k: m.training for k, m in net.named_modules()} == before
    assert all(torch.equal(weights[k], o) for k, o in net.state_dict().items())
    net.eval()
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    with torch.no_grad(): a, b = (net.training_loss(x, mask, ids) for _ in range(2))
    assert a == b and torch.equal(torch.rand(3), want)

@pytest.mark.parametrize('arch', BUILDERS)
def test_void_belongs_to_no_thing(arch):
    net, (ids, mask) = built(arch, 3).eval(), scene()
    x, void = torch.randn(1, 1, 40, 56), mask == 2
    with torch.no_grad():
        got = net.training_loss(x, mask, ids, ignore_index=2)
        want = net.training_loss(x, mask, ids.where(~void, 0), ignore_index=2)
    assert got == want

@pytest.mark.parametrize('arch', BUILDERS)
def test_refused(arch):
    for bad, why in ((dict(width=0), 'width=0'), (dict(hidden=2.5), 'hidden=2.5'),
            (dict(anchor=0), 'anchor=0'), (dict(encoder='hrnet_w18_small_v2x'), 'no encoder')):
        with pytest.raises(SegbookError, match=why): built(arch, **bad)
    net, (ids, mask) = built(arch, 3), scene()
    x = torch.randn(1, 1, 40, 56)
    for bad, why in ((None, 'there are no instances'), (ids.float(), 'whole numbers'),
            (ids - 1, 'hold -1'), (ids[:, :9], 'of one size')):
        with pytest.raises(SegbookError, match=why): net.training_loss(x, mask, bad)

@pytest.mark.parametrize('arch', BUILDERS)
def test_an_encoder_with_too_few_stages(arch, monkeypatch):
    body = nn.Sequential(*[nn.Conv2d(3, 3, 3, 2, 1) for _ in range(3)]) # strides 2, 4 and 8
    monkeypatch.setattr('segbook.architectures.blocks.encoder_body', lambda *args: body)
    with pytest.raises(SegbookError, match=r'strides \[2, 4, 8\], and none of \[16, 32\]'):
        built(arch, in_channels=3)

def test_mask_rcnn_of_torchvision(monkeypatch):
    "With its weights, and its boxes aligned as ours, torchvision finds the same things"
    from torchvision.models.detection import MaskRCNN, roi_heads
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.ops import MultiScaleRoIAlign, poolers, roi_align
    aligned = lambda *a, **kw: roi_align(*a, **kw, aligned=True)
    monkeypatch.setattr(poolers, 'roi_align', aligned)
    net = built('panoptic_fpn', 3, 3, width=256, hidden=1024, anchor=8).eval()
    class Pyramid(nn.Module):
        out_channels = 256
        def forward(self, x):
            levels = net.pyramid([net.encoder(x)[i] for i in net.places])
            return dict(zip('0123', levels))
    pools = [MultiScaleRoIAlign(list('0123'), s, 2) for s in (7, 14)]
    theirs = MaskRCNN(Pyramid(), 4, min_size=96, max_size=128, image_mean=[0]*3, image_std=[1]*3,
        rpn_anchor_generator=AnchorGenerator(((32,), (64,), (128,), (256,)), ((.5, 1., 2.),)*4),
        box_roi_pool=pools[0], mask_roi_pool=pools[1], rpn_pre_nms_top_n_test=500,
        rpn_post_nms_top_n_test=250, box_detections_per_img=40).eval()
    with torch.no_grad():
        for p in net.things.parameters():
            if p.ndim > 1: p.mul_(3) # so that the scores differ
    theirs.rpn.load_state_dict(net.things.rpn.state_dict())
    theirs.roi_heads.load_state_dict(net.things.heads.state_dict())
    x = torch.randn(2, 3, 96, 128)
    monkeypatch.setattr(roi_heads, 'paste_masks_in_image', None)
    theirs.transform.postprocess = lambda found, *sizes: found
    with torch.no_grad(): want = theirs([*x])
    seen = {}
    monkeypatch.setattr(detection, 'mask_in_image', lambda g, b, size: (
        seen.setdefault('grids', []).append(g), torch.ones(len(g), *size, dtype=torch.bool))[1])
    got = net.instances(x)
    grids = torch.cat(seen['grids'])
    assert sum(len(o.scores) for o in got) > 20
    for a, b in zip(got, want):
        assert torch.equal(a.classes + 1, b['labels'])
        assert torch.allclose(a.scores, b['scores'], atol=1e-5)
        assert torch.allclose(a.boxes, b['boxes'], atol=1e-3)
    assert torch.allclose(grids, torch.cat([o['masks'][:, 0] for o in want]), atol=1e-5)

def test_losses_of_torchvision():
    "The four losses of boxes are those of torchvision's own pass, with the same samples"
    net, (ids, mask) = built('panoptic_fpn', 3).train(), scene()
    x, branch = torch.randn(1, 1, 64, 64), net.things
    ids, mask = (nn.functional.pad(o, (0, 8, 0, 24)) for o in (ids, mask))
    targets = instance_targets(mask, ids)
    levels = net.pyramid([net.encoder(x)[i] for i in net.places])
    torch.manual_seed(1)
    got = branch.losses(levels, x, (64, 64), targets)
    images = detection.ImageList(x, [(64, 64)])
    heads = branch.heads
    torch.manual_seed(1)
    proposals, want = branch.rpn.train()(images, dict(enumerate(levels)), targets)
    heads.box_roi_pool = lambda features, boxes, sizes: branch.pool([*features.values()], boxes, 7)
    _, more = heads.train()(dict(enumerate(levels)), proposals, [(64, 64)], targets)
    want = [*want.values(), *more.values()]
    assert torch.allclose(torch.stack([*got.values()][:4]), torch.stack(want), rtol=1e-5)

def test_bottom_up_path_by_hand():
    torch.manual_seed(0)
    path = BottomUpPath(3, 3)
    a, b, c = (torch.randn(1, 3, s, s) for s in (8, 4, 2))
    conv = lambda m, x, s: nn.functional.conv2d(x, m[0].weight, m[0].bias, s, 1).clamp(min=0)
    second = conv(path.mixes[0], b + conv(path.downs[0], a, 2), 1)
    third = conv(path.mixes[1], c + conv(path.downs[1], second, 2), 1)
    for got, want in zip(path([a, b, c]), (a, second, third)): assert torch.allclose(got, want)

def test_every_level_is_read_at_the_same_place():
    x = torch.arange(32.).repeat(1, 1, 32, 1)
    levels = [nn.functional.avg_pool2d(x, s) for s in (1, 2, 4)]
    box = [torch.tensor([[8., 8, 22, 22]])]
    for grid in PoolEveryLevel((1, 2, 4))(levels, box, 7):
        assert torch.allclose(grid[0, 0, 3], torch.arange(8.5, 22, 2), atol=1e-4)
    assert with_image([box[0], box[0]])[:, 0].tolist() == [0, 1]

# ---- targets, masks, pictures

def test_targets_by_loops():
    rng = np.random.default_rng(0)
    ids = torch.from_numpy(rng.integers(0, 4, (3, 6, 7))*rng.integers(0, 2, (3, 6, 7)))
    mask = torch.from_numpy(rng.integers(0, 3, (3, 6, 7)))
    for m, i, t in zip(mask, ids, instance_targets(mask, ids)):
        for k, (box, label, own) in enumerate(zip(t['boxes'], t['labels'], t['masks'])):
            at = [(r, c) for r in range(6) for c in range(7) if i[r, c] == i.unique()[k + 1]]
            rows, columns = zip(*at)
            assert box.tolist() == [min(columns), min(rows), max(columns) + 1, max(rows) + 1]
            votes = [sum(int(m[p]) == c for p in at) for c in range(3)]
            assert votes[int(label) - 1] == max(votes)
            assert own.sum() == len(at) and all(own[p] for p in at)

def test_masks_go_there_and_back():
    y, x = torch.meshgrid(torch.arange(60), torch.arange(70), indexing='ij')
    small = (y > 10) & (y < 14) & (x > 2) & (x < 9)
    masks = torch.stack([(y - 30)**2 + (x - 40)**2 < 20**2, small])
    boxes = instance_targets(torch.ones(2, 60, 70).long(), masks.long())
    boxes = torch.cat([o['boxes'] for o in boxes])
    back = mask_in_image(mask_in_box(masks, boxes, 28), boxes, (60, 70))
    both = (back & masks).sum((1, 2))/(back | masks).sum((1, 2))
    assert both[0] > .97 and both[1] == 1

def test_things_laid_in_order():
    masks = torch.zeros(3, 2, 10, dtype=torch.bool)
    masks[0, :, :4], masks[1, :, 3:7], masks[2, :, 2:5] = True, True, True
    found = Instances(masks, torch.tensor([1, 2, 1]), torch.tensor([.9, .8, .7]), torch.zeros(3, 4))
    classes, ids = laid_in_order(found)
    assert ids[0].tolist() == [1, 1, 1, 1, 2, 2, 2, 0, 0, 0] # of the third a third is free
    assert classes[0].tolist() == [1, 1, 1, 1, 2, 2, 2, -1, -1, -1]
    logits = torch.zeros(3, 2, 10)
    logits[0, :, :8] = logits[1, :, 8] = logits[2, 0, 9] = 1
    classes, ids = panoptic_picture(found, logits, torch.tensor([True, False, True]), 2)
    assert classes[0].tolist() == [1, 1, 1, 1, 2, 2, 2, 0, -1, -1] # expected thing; small stuff
    empty = Instances(*(o[:0] for o in found))
    assert (panoptic_picture(empty, logits, torch.tensor([True]*3))[1] == 0).all()

# ---- scores

def findings(masks, classes, scores):
    return SimpleNamespace(masks=np.array(masks), classes=np.array(classes),
        scores=np.array(scores))

def pair(rng, K=4, n=6, size=(40, 50)):
    "True ids and mask, and findings that are moved, doubled, of a wrong class, or nothing"
    ids = np.zeros(size, int)
    for k in range(1, n + 1):
        y, x = rng.integers(0, 28, 2)
        ids[y:y + rng.integers(4, 12), x:x + rng.integers(4, 12)] = k
    kinds = rng.integers(1, K, n + 1)
    mask = np.where(ids > 0, kinds[ids], 0)
    masks = [np.roll(ids == k, rng.integers(-2, 3, 2), (0, 1)) for k in np.unique(ids)[1:]]
    masks += [np.roll(masks[0], 1, 0), np.roll(ids == 0, 20, 0) & (rng.random(size) < .1)]
    classes = [mask[m].max() if rng.random() < .8 else 1 for m in masks]
    return ids, mask, findings(masks, np.maximum(classes, 1), rng.random(len(masks)))

def test_average_precision_of_torchmetrics():
    from torchmetrics.detection import MeanAveragePrecision
    rng, tensor = np.random.default_rng(0), torch.from_numpy
    ours = AveragePrecision(4, thresholds=np.arange(10)*.05 + .5031) # no overlap is on a border
    theirs = MeanAveragePrecision(iou_type='segm', iou_thresholds=ours.thresholds.tolist(),
        rec_thresholds=np.linspace(0, 1, 101).tolist(), class_metrics=True)
    for _ in range(12):
        ids, mask, found = pair(rng)
        ours.update([found], mask[None], ids[None])
        every = np.unique(ids)[1:]
        theirs.update([dict(masks=tensor(found.masks), labels=tensor(found.classes),
            scores=tensor(found.scores))], [dict(masks=tensor(np.array([ids == k for k in every])),
            labels=tensor(np.array([mask[ids == k][0] for k in every])))])
    want = theirs.compute()
    assert abs(ours.mean() - want['map']) < 1e-5 and ours.mean() > .05
    got = ours.per_class().mean(1)
    assert np.isnan(got[0]) and np.allclose(got[1:], want['map_per_class'].numpy(), atol=1e-5)

def test_panoptic_quality_of_torchmetrics():
    from torchmetrics.detection import PanopticQuality as Theirs
    rng = np.random.default_rng(1)
    ours = PanopticQuality(4)
    theirs = Theirs(things={1, 2}, stuffs={0, 3}, return_per_class=True, return_sq_and_rq=True)
    for _ in range(8):
        ids, mask, _ = pair(rng, 3)
        mask[32:], ids[32:] = 3, 0
        classes, found = (np.roll(o, (1, 2), (0, 1)) for o in (mask, ids))
        classes[:5, :9], found[:5, :9] = 1, 99
        ours.update(classes[None], found[None], mask[None], ids[None])
        theirs.update(*(torch.from_numpy(np.stack(o, -1))[None] for o in ((classes, found),
            (mask, ids))))
    want = theirs.compute().numpy()[[2, 0, 1, 3]] # things first
    got = np.stack([*ours.per_class().values()], 1)
    assert np.allclose(got, want) and abs(ours.mean() - want[:, 0].mean()) < 1e-7

def test_void_in_panoptic_quality_by_loops():
    rng = np.random.default_rng(2)
    ids, mask, _ = pair(rng, 3)
    mask[:, 30:], ids[:, 30:] = 3, 0 # Void
    classes, found = (np.roll(o, 1, 1) for o in (np.minimum(mask, 2), ids))
    got = PanopticQuality(4, 3).update(classes[None], found[None], mask[None], ids[None])
    segments = lambda c, i: {(int(a), int(b)): (c == a) & (i == b) for a, b in zip(c.flat, i.flat)}
    pred, true, void = segments(classes, found), segments(mask, ids), mask == 3
    counts, met = np.zeros((4, 4)), set()
    for (k, i), p in pred.items():
        hits = [(t, (p & m).sum()/((p & ~void) | m).sum()) for t, m in true.items() if t[0] == k]
        best = max(hits, key=lambda o: o[1], default=(None, 0))
        if best[1] > .5:
            counts[k, :2] += best[1], 1
            met.add(best[0])
        elif 2*(p & void).sum() <= p.sum(): counts[k, 2] += 1
    for t in true:
        if t not in met and t[0] != 3: counts[t[0], 3] += 1
    assert np.allclose(got.counts, counts) and counts[:, 1].sum() > 2

# ---- data, learner, command

def test_ids_move_with_their_mask(cells):
    dls = seg_dataloaders(cells, bs=8, instances='instances', seed=1)
    x, ids, mask = dls.one_batch()
    assert ids.dtype == mask.dtype == torch.int64 and dls.n_inp == 2
    assert torch.equal(ids > 0, mask > 0) and len(ids.unique()) > 4
    dls = seg_dataloaders(cells, bs=4, size=32, crops='positive', instances='instances')
    x, ids, mask = dls.one_batch()
    assert x.shape[-2:] == (32, 32) and torch.equal(ids > 0, mask > 0)
    x, ids, mask = seg_dataloaders(cells, bs=4, size=(40, 48), instances='instances').one_batch()
    assert ids.shape == (4, 40, 48) and torch.equal(ids > 0, mask > 0)

def test_a_folder_whose_ids_do_not_fit(cells, tmp_path):
    shutil.copytree(cells, tmp_path/'few')
    file = next((tmp_path/'few'/'instances').iterdir())
    Image.fromarray(np.zeros((5, 6), np.uint16)).save(file)
    with pytest.raises(SegbookError, match='its ids 5x6'):
        seg_dataloaders(tmp_path/'few', bs=2, instances='instances')
    file.unlink()
    with pytest.raises(SegbookError, match='1 of 10 images have no ids'):
        seg_dataloaders(tmp_path/'few', bs=2, instances='instances')

def learner(cells, arch='panoptic_fpn', instances='instances', **kwargs):
    dls = seg_dataloaders(cells, bs=4, instances=instances, seed=1)
    options = {k: v for k, v in SMALL.items() if k != 'encoder'}
    return seg_learner(dls, arch, SMALL['encoder'], pretrained=False, model_kwargs=options,
        **kwargs)

def train(learn, epochs=1):
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, 1e-3)
    return learn.recorder.values[-1]

@pytest.mark.parametrize('arch', BUILDERS)
def test_a_learner_trains_things(arch, cells):
    learn = learner(cells, arch)
    assert isinstance(learn.metrics[-1], InstanceAP)
    assert learn.keep_best.monitor == 'average_precision'
    before = learn.model.things.heads.mask_predictor.state_dict()
    before = {k: v.clone() for k, v in before.items()}
    row = train(learn)
    assert np.isfinite(row).all() and learn.model.noted is None
    after = learn.model.things.heads.mask_predictor.state_dict()
    assert any(not torch.equal(before[k], v) for k, v in after.items())
    scores = instance_scores(learn)
    assert abs(scores['average_precision'] - row[-1]) < 1e-6
    assert ('panoptic_quality' in scores) == (arch == 'panoptic_fpn')
    assert learns_things(arch) and not learns_things('fpn') and not learns_things('nothing')

def test_a_batch_in_parts_has_the_loss_of_the_whole(cells):
    whole, parts = (learner(cells, accumulate=n) for n in (1, 2))
    a, b = (o.validate()[0] for o in (whole, parts))
    assert abs(a - b)/a < .1 # other samples, the same network
    assert np.isfinite(train(parts)).all()

def test_without_ids(cells):
    learn = learner(cells, instances=None)
    learn.model.instances(torch.zeros(1, 1, 64, 64)) # it may predict
    with pytest.raises(SegbookError, match="instances='instances'"): train(learn)
    with pytest.raises(SegbookError, match='hand out none'): instance_scores(learn)
    dls = seg_dataloaders(cells, bs=4, instances='instances')
    with pytest.raises(SegbookError, match='takes none'):
        seg_learner(dls, 'dynamic_unet_lean', 'resnet18', pretrained=False)
    learn = learner(cells)
    learn.add_cb(MaskMixUp())
    with pytest.raises(SegbookError, match='MaskMixUp mixes images'): train(learn)

@pytest.mark.parametrize('arch', BUILDERS)
def test_things_of_a_file_are_those_of_a_batch(arch, cells):
    "Read and prepared by fastai's DataLoader, or by predict_things, an image shows the same things"
    learn = learner(cells, arch)
    learn.model.things.heads.detections_per_img = 20 # a network that knows nothing finds a lot
    x = next(iter(learn.dls.valid))[0]
    for k, file in enumerate(learn.dls.valid_ds.items[:2]):
        theirs, = learn.model.instances(x[k:k + 1], .3)
        ours = predict_things(learn, file, .3)
        assert len(ours.masks) == len(theirs.masks) > 1
        for a, b in zip(ours, theirs): torch.testing.assert_close(a, b)
    with pytest.raises(SegbookError, match='did you mean .cell'): predict_things(learn, file,
        classes=['cel'])

def test_things_at_the_size_of_the_image(cells):
    "Twice as large as in training: masks and boxes lie where the image is, a box holds its mask"
    dls = seg_dataloaders(cells, bs=4, size=64, instances='instances', seed=1)
    options = {k: v for k, v in SMALL.items() if k != 'encoder'}
    learn = seg_learner(dls, 'panet', SMALL['encoder'], pretrained=False, model_kwargs=options)
    learn.model.things.heads.detections_per_img = 20
    image = np.array(Image.open(dls.valid_ds.items[0])).repeat(2, 0).repeat(2, 1)
    found = predict_things(learn, image[:, :112], .3)
    assert found.masks.shape == (len(found.masks), 128, 112) and len(found.masks)
    assert found.masks.flatten(1).any(1).any()
    for m, (left, top, right, bottom) in zip(found.masks, found.boxes.tolist()):
        rows, columns = m.any(1).nonzero(), m.any(0).nonzero()
        if not len(rows): continue
        assert top - 2 <= rows.min() and rows.max() < bottom + 2
        assert left - 2 <= columns.min() and columns.max() < right + 2

def test_the_command(cells, tmp_path, capsys):
    args = ['--arch', 'panet', '--encoder', SMALL['encoder'], '--pretrained', 'false', '--epochs',
        '1', '--bs', '4', '--out', str(tmp_path/'run')]
    shutil.copytree(cells, tmp_path/'bare', ignore=shutil.ignore_patterns('instances'))
    assert command.segbook_train(['--data', str(tmp_path/'bare'), *args]) == 2
    assert "no folder 'instances'" in capsys.readouterr().err
    assert not (tmp_path/'run').exists()
    assert command.segbook_train(['--data', str(cells), *args]) == 0
    assert 'things: average precision' in capsys.readouterr().out
    assert 'average_precision' in (tmp_path/'run'/'metrics.csv').read_text()
