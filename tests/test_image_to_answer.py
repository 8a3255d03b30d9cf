"""What a user may hand to prediction: odd types, 12 bits in 16, thresholds beyond the library."""
import json, math, re, warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from segbook.errors import SegbookError
from segbook.inference import predict_image, predict_tiled, predict_tta
from segbook.interpretation import SegInterpretation
from segbook.onnx_files import class_rule, onnx_metadata
from segbook.thresholds import ids_of_probabilities


def learnt(n_classes=4, **facts):
    "As much of a Learner as a prediction looks at."
    torch.manual_seed(0)
    facts = dict(n_classes=n_classes, in_channels=3, ignore_index=None, size=None, mean=[.5]*3,
        std=[.5]*3, codes=[f'class {k}' for k in range(max(2, n_classes))]) | facts
    return SimpleNamespace(model=nn.Conv2d(3, n_classes, 3, padding=1).eval(), segmenter=facts)


def warned(f, *args, **kwargs):
    "The texts of the warnings of a call."
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        f(*args, **kwargs)
    return [str(o.message) for o in told]


BYTES = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)


@pytest.mark.parametrize('bits', [10, 12, 14])
@pytest.mark.parametrize('predict', [predict_image, predict_tta])
def test_few_bits_in_sixteen_are_said_to_be_nearly_black(bits, predict):
    x = np.random.default_rng(0).integers(0, 2**bits, (20, 24, 3)).astype(np.uint16)
    told, = warned(predict, learnt(), x)
    assert f'{x.max()/65535:.1%}' in told and 'nearly black' in told
    assert not warned(predict, learnt(), x/(2**bits - 1)), 'the cure that the warning names'
    assert not warned(predict, learnt(value_range=[0, 2**bits - 1]), x)


@pytest.mark.parametrize('image', [BYTES//8, BYTES//8/255, BYTES.astype(np.uint16)*257, BYTES*0,
    torch.tensor(BYTES//8).permute(2, 0, 1)])
def test_dark_photographs_and_whole_ranges_pass_in_silence(image):
    assert not warned(predict_image, learnt(), image)


def test_windows_of_a_bright_image_may_be_dark():
    x = np.full((64, 96, 3), 300, np.uint16)
    x[50:, 80:] = 60_000
    assert not warned(predict_tiled, learnt(), x, tile=16, progress=False)


@pytest.mark.parametrize('tile', [np.int64(16), (np.int32(16), 16), [16, 16]])
def test_sides_of_windows_are_whole_numbers_of_any_kind(tile):
    want = predict_tiled(learnt(), BYTES, tile=16, progress=False)
    got = predict_tiled(learnt(), BYTES, tile=tile, batch_size=np.int64(2), progress=False)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize('tile', [16., '16', None, (16,), (16, 16, 16), np.array([16, 16]), True])
def test_other_sides_are_refused(tile):
    with pytest.raises(SegbookError, match='tile='):
        predict_tiled(learnt(), BYTES, tile=tile, progress=False)


@pytest.mark.parametrize('odd', [math.nan, math.inf])
def test_a_tensor_with_one_odd_number_is_counted(odd):
    x = torch.rand(3, 5, 6)
    x[1, 2, 3] = odd
    with pytest.raises(SegbookError, match=f'1 value of 90 that are .* such as {odd}'):
        predict_image(learnt(), x)


@pytest.mark.parametrize('cut', [None, .5, .1, .83])
@pytest.mark.parametrize('void', [None, 0, 1, 2])
def test_the_rule_in_an_onnx_file_is_that_of_predict(cut, void):
    "Of one channel (no Void) and of two classes: read from the text, against probabilities"
    logits = torch.randn(3, 40, 50, generator=torch.Generator().manual_seed(1))*2
    n = 1 if void is None else 3
    facts = dict(n_classes=n, ignore_index=void, threshold=cut)
    p = logits[:1].sigmoid()
    if n > 1: # Void gets no share
        p = logits.clone()
        p[void] = -torch.inf
        p = p.softmax(0)
    want, rule = ids_of_probabilities(p, void, cut), class_rule(facts)
    if n == 1:
        least = float(re.match(r'class 1 where above (-?[\d.]+)', rule)[1])
        got = (logits[0] > least).long()
    elif cut is None:
        assert rule.startswith('the class is the argmax')
        got = p.argmax(0)
    else:
        a, b, c, least, other = re.match(r'class (\d) where logit (\d) less logit (\d) is above '
            r'(-?[\d.]+), .*; else class (\d)', rule).groups()
        assert a == b and c == other
        a, c = int(a), int(c)
        got = torch.where(logits[a] - logits[c] > float(least), a, c)
    assert (got == want).all() and len(want.unique()) == 2


def test_an_onnx_file_names_its_threshold():
    facts = learnt(1, threshold=.25, ignore_index=None, arch='fcn', encoder='resnet18').segmenter
    said = onnx_metadata(facts)
    assert json.loads(said['threshold']) == .25 and 'a probability of 0.25' in said['output']
    assert json.loads(onnx_metadata(facts | dict(threshold=None))['threshold']) is None


def test_how_many_images_is_a_number_or_all():
    truth = np.array([[0, 0], [1, 1]])
    answers = [truth, 1 - truth, np.array([[0, 1], [1, 1]])]
    seen = SegInterpretation.from_masks([truth.astype(np.uint8)]*3, [truth]*3, answers, ['a', 'b'])
    assert list(seen.worst(np.int64(2)).index) == [1, 2] and len(seen.worst(None)) == 3
    assert len(seen.worst(0)) == 0 and len(seen.worst(9)) == 3
    for odd in (-1, 1.5, '2'):
        for worst in (seen.worst, lambda n: seen.worst_for('a', n)):
            with pytest.raises(SegbookError, match='how many images'): worst(odd)


def test_the_command_names_the_image_it_warns_of(monkeypatch, capsys, tmp_path):
    from segbook.cli import predict
    model = SimpleNamespace(codes=['a', 'b', 'c', 'd'], segmenter={})
    batch = predict._Batch(model, tmp_path, None, [])
    monkeypatch.setattr(predict, '_write_overlay', lambda *args: None)
    monkeypatch.setattr(predict, 'answered', lambda model, file, asked: (
        predict_image(learnt(), np.load(file)).numpy(), None))
    for name in ('dark', 'dim', 'bright'):
        x = np.random.default_rng(0).integers(0, 4096, (9, 9, 3)).astype(np.uint16)
        np.save(tmp_path/f'{name}.npy', x*16 if name == 'bright' else x)
        batch.predict(tmp_path/f'{name}.npy', name)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2 and not batch.lost and batch.n == 3
    assert 'note: dark.npy: the brightest' in told[0] and 'note: dim.npy: the brightest' in told[1]


def test_one_model_is_no_ensemble_under_two_names(tmp_path, monkeypatch):
    from segbook.ensembles import member_folders
    for run in ('a', 'b'):
        (tmp_path/run/'model').mkdir(parents=True)
        (tmp_path/run/'model'/'segmenter.json').write_text('{}')
    (tmp_path/'link').symlink_to(tmp_path/'a')
    monkeypatch.chdir(tmp_path)
    assert list(map(str, member_folders(['a', 'b']))) == ['a', 'b']
    for other in ('a', './a/', 'a/model', tmp_path/'a', 'link', 'b/../a', 'link/model'):
        with pytest.raises(SegbookError, match='named twice'): member_folders(['b', 'a', other])


def test_two_classes_of_one_name_are_refused():
    with pytest.raises(SegbookError, match="'a' stands twice"):
        SegInterpretation.from_masks([BYTES], [BYTES[..., 0] % 2], [BYTES[..., 0] % 2], ['a', 'a'])


def test_bytes_in_wide_numbers_are_told_and_thresholds_are_any_real_number():
    for x in (BYTES.astype(np.int64), BYTES.tolist()):
        assert 'bytes in int64' in warned(predict_image, learnt(), x)[0]
    cut = np.float32(.3)
    one = predict_image(learnt(1, codes=['a', 'b']), BYTES, threshold=cut)
    assert (one == predict_image(learnt(1, codes=['a', 'b']), BYTES, threshold=float(cut))).all()
