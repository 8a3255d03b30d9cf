"""Each architecture by name keeps what losses, learner, prediction and export rely on."""
import inspect
import warnings
import pytest, torch
from segbook.errors import SegbookError
from segbook.export import load_segmenter, save_segmenter
from segbook.inference import predict_image
from segbook.learner import seg_learner
from segbook.models import MODELS, check_segmenter, has_own_encoder, seg_model
from segbook.data import make_scenes, seg_dataloaders

ENCODER = 'mobilenetv3_small_050' # five maps, and few weights
# a quarter of the channels: the same layers, and a tenth of the work
SMALLER = dict(unet=dict(width=16))
# channels of the image, classes: each architecture gets one of these pairs, and 3 channels anyway
SHAPES = [(1, 2), (4, 32), (3, 12), (2, 5)]

@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

def built(arch, n_classes=5, in_channels=3, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = {} if has_own_encoder(arch) else dict(encoder=ENCODER)
        options = {**SMALLER.get(arch, {}), **encoder, **kwargs}
        return seg_model(arch, n_classes, in_channels=in_channels, **options)

@pytest.mark.parametrize('arch', MODELS)
def test_contract(arch):
    table = check_segmenter(built(arch))
    assert '5 out' in table.found['sizes'] and not table.found.isna().any()

@pytest.mark.parametrize('arch', MODELS)
def test_channels_and_classes(arch):
    i = [*MODELS].index(arch)
    for channels, classes in (SHAPES[i % 4], SHAPES[(i + 1) % 4]):
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            y = built(arch, classes, channels).eval()(torch.randn(1, channels, 33, 47))
        assert y.shape == (1, classes, 33, 47) and torch.isfinite(y).all()

@pytest.mark.parametrize('arch', MODELS)
def test_builder_has_the_usual_arguments(arch):
    names = list(inspect.signature(MODELS[arch]).parameters)
    assert names[:4] == ['n_classes', 'encoder', 'in_channels', 'pretrained']
    assert MODELS[arch].__doc__
    for bad in (0, -1, 2.5, None):
        with pytest.raises(SegbookError, match='n_classes'): seg_model(arch, bad)

@pytest.mark.parametrize('arch', [o for o in MODELS if has_own_encoder(o)])
def test_own_encoder(arch):
    with pytest.warns(UserWarning, match='encoder of its own'): seg_model(arch, 2, 'resnet50')
    with pytest.raises(SegbookError, match='pretrained=False'):
        seg_model(arch, 2, pretrained=True)

@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp('scenes')/'scenes', n=6, size=(64, 96), seed=1)

@pytest.mark.parametrize('arch', MODELS)
def test_saved_and_loaded(arch, scenes, tmp_path):
    "What a learner has made is in the folder: the same masks, the same two groups of parameters"
    dls = seg_dataloaders(scenes, bs=2, seed=1)
    encoder = None if has_own_encoder(arch) else ENCODER
    learn = seg_learner(dls, arch, encoder, pretrained=False)
    groups = learn.splitter(learn.model)
    assert len(groups) == 2 and all(groups)
    assert sum(map(len, groups)) == len([*learn.model.parameters()])
    with torch.no_grad(): # statistics other than those a network is born with
        for k, v in learn.model.state_dict().items():
            if k.endswith('running_mean'): v.add_(.1)
    save_segmenter(learn, tmp_path/'model')
    file = dls.valid_ds.items[0]
    again = load_segmenter(tmp_path/'model')
    assert torch.equal(predict_image(again, file), predict_image(learn, file))

@pytest.mark.parametrize('arch', [o for o in MODELS if o != 'dynamic_unet'])
def test_unknown_option(arch):
    "All but dynamic_unet, which hands options to fastai's"
    encoder = None if has_own_encoder(arch) else ENCODER
    with pytest.raises(SegbookError, match=f"{arch} has no option 'nonsense'; it has"):
        seg_model(arch, 2, encoder, nonsense=True)

def test_a_loss_that_the_learner_does_not_use_is_said(scenes, capsys):
    dls = seg_dataloaders(scenes, bs=2, seed=1)
    for arch, told in (('mask_classification', True), ('fcn', False)):
        seg_learner(dls, arch, ENCODER, pretrained=False)
        assert ('training_loss of its own' in capsys.readouterr().out) == told
