"""SegFormer: the network of segmentation-models-pytorch, the same weights; its parts by hand."""
import pytest, torch
from torch import nn
from torch.nn import functional as F
from segbook.architectures.segformer import (
    MIX_TRANSFORMERS, Attention, MixMLP, ShrunkMemory, mix_transformer, segformer,
)
from segbook.errors import SegbookError

smp = pytest.importorskip('segmentation_models_pytorch')

def rough(net):
    "Normalisations that are not those of a new network"
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.running_mean)
            nn.init.uniform_(m.running_var, .5, 2)
        if isinstance(m, nn.LayerNorm): nn.init.normal_(m.weight)
    return net.eval()

def renamed(encoder):
    "Weights of a mix transformer of smp under our names"
    state = {}
    def put(name, m): state.update({f'{name}.{k}': v for k, v in m.state_dict().items()})
    for i in range(4):
        patch = getattr(encoder, f'patch_embed{i + 1}')
        put(f'{i}.embed', patch.proj)
        put(f'{i}.first_norm', patch.norm)
        put(f'{i}.last_norm', getattr(encoder, f'norm{i + 1}'))
        for j, b in enumerate(getattr(encoder, f'block{i + 1}')):
            name = f'{i}.blocks.{j}'
            for ours, theirs in (('norm1', b.norm1), ('norm2', b.norm2),
                    ('attention.query', b.attn.q), ('attention.key_value', b.attn.kv),
                    ('attention.out', b.attn.proj), ('mlp.first', b.mlp.fc1),
                    ('mlp.last', b.mlp.fc2), ('mlp.look', b.mlp.dwconv.dwconv)):
                put(f'{name}.{ours}', theirs)
            if b.attn.sr_ratio > 1:
                put(f'{name}.shrink.conv', b.attn.sr)
                put(f'{name}.shrink.norm', b.attn.norm)
    return state

def give_decoder(ours, theirs):
    "Weights of the decoder of smp, whose order is from the smallest map to the largest"
    fuse = theirs.decoder.fuse_stage[0].weight
    shares = fuse.chunk(len(theirs.decoder.mlp_stage), 1)[::-1]
    for i, (same, share) in enumerate(zip(ours.same_width, ours.fuse)):
        k = len(shares) - 4 + i # with a convolutional encoder smp reads a fifth map, the largest
        linear = theirs.decoder.mlp_stage[3 - i].linear
        same.weight.data, same.bias.data = linear.weight.data[..., None, None], linear.bias.data
        share.weight.data = shares[k].data
    ours.norm.load_state_dict(theirs.decoder.fuse_stage[1].state_dict())
    ours.classify.load_state_dict(theirs.segmentation_head[0].state_dict())

@pytest.mark.parametrize('variant, size', [('b0', (96, 160)), ('b1', (64, 64))])
def test_layer_by_layer_the_network_of_smp(variant, size):
    "Equal up to the last step: smp enlarges from corner to corner, ours and the authors' do not"
    torch.manual_seed(0)
    theirs = rough(smp.Segformer(f'mit_{variant}', encoder_weights=None, classes=5))
    ours = segformer(5, variant=variant).eval()
    ours.encoder.body.load_state_dict(renamed(theirs.encoder))
    give_decoder(ours, theirs)
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        maps = theirs.encoder(x)
        for a, b in zip(ours.encoder(x), maps[2:], strict=True):
            assert torch.allclose(a, b, rtol=1e-4, atol=2e-5)
        want = theirs.segmentation_head[0](theirs.decoder(maps))
        got = ours.decode(ours.encoder(x), x)
        assert (got - want).abs().max() < 1e-5*want.abs().max()
        assert torch.allclose(ours(x), F.interpolate(got, size, mode='bilinear'), atol=1e-6)
        corners = F.interpolate(got, size, mode='bilinear', align_corners=True)
        assert (corners - theirs(x)).abs().max() < 1e-5*want.abs().max()

def test_with_a_resnet_smp_reads_one_map_more():
    torch.manual_seed(1)
    theirs = rough(smp.Segformer('resnet18', encoder_weights=None, classes=4))
    ours = segformer(4, 'resnet18').eval()
    values = [v for k, v in theirs.encoder.state_dict().items()]
    body = ours.encoder.body
    body.load_state_dict(dict(zip(body.state_dict(), values, strict=True)))
    assert len(theirs.decoder.mlp_stage) == 5 and len(ours.fuse) == 4
    theirs.decoder.fuse_stage[0].weight.data[:, -256:] = 0 # of the map 2 times smaller
    give_decoder(ours, theirs)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        want = theirs.segmentation_head[0](theirs.decoder(theirs.encoder(x)))
        assert (ours.decode(ours.encoder(x), x) - want).abs().max() < 1e-5*want.abs().max()

def test_attention_is_torchs():
    torch.manual_seed(2)
    ours, theirs = Attention(12, 3), nn.MultiheadAttention(12, 3, batch_first=True)
    theirs.in_proj_weight.data = torch.cat([ours.query.weight, ours.key_value.weight]).data
    theirs.in_proj_bias.data = torch.cat([ours.query.bias, ours.key_value.bias]).data
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    x, memory = torch.randn(2, 5, 12), torch.randn(2, 7, 12)
    assert torch.allclose(ours(x, memory), theirs(x, memory, memory)[0], atol=1e-6)

def test_parts_by_hand():
    torch.manual_seed(3)
    x = torch.randn(1, 6, 4) # a map of 2 by 3
    mlp = MixMLP(4, 8)
    hidden = mlp.first(x).reshape(2, 3, 8)
    seen = torch.zeros(2, 3, 8)
    for i in range(2):
        for j in range(3):
            for a in range(max(i - 1, 0), min(i + 2, 2)):
                for b in range(max(j - 1, 0), min(j + 2, 3)):
                    seen[i, j] += hidden[a, b]*mlp.look.weight[:, 0, a - i + 1, b - j + 1]
    want = mlp.last(F.gelu(seen + mlp.look.bias)).reshape(1, 6, 4)
    assert torch.allclose(mlp(x, (2, 3)), want, atol=1e-6)
    few = ShrunkMemory(4, 2)
    corner = torch.stack([x[0, 0], x[0, 1], x[0, 3], x[0, 4]], 1) # the last column has no partner
    want = few.conv.weight.flatten(1) @ corner.flatten() + few.conv.bias
    assert torch.allclose(few(x, (2, 3)), F.layer_norm(want, (4,))[None, None], atol=1e-5)

@pytest.mark.parametrize('encoder', ['own', 'pvt_v2_b0', 'timm/convnext_atto', 'resnet18'])
def test_every_parameter_learns(encoder):
    torch.manual_seed(4)
    net = segformer(3, encoder, 4).train()
    y = net(torch.randn(2, 4, 33, 47))
    assert y.shape == (2, 3, 33, 47)
    y.square().mean().backward()
    assert not [n for n, p in net.named_parameters()
        if p.grad is None or not p.grad.abs().max() > 0]

def test_a_changed_corner_reaches_the_other_corner():
    torch.manual_seed(5)
    net = mix_transformer().double().eval()[0] # the first stage alone
    x = torch.rand(1, 3, 64, 96, dtype=torch.double)
    y = x.clone()
    y[..., -1, -1] += 1
    with torch.no_grad(): assert (net(x) != net(y))[..., 0, 0].any()

def test_refused():
    with pytest.raises(SegbookError, match='expected one of b0, b1'): segformer(3, variant='b9')
    with pytest.raises(SegbookError, match='width=0'): segformer(3, width=0)
    with pytest.raises(SegbookError, match='pretrained=False'): segformer(3, pretrained=True)
    with pytest.raises(SegbookError, match="'vit_tiny_patch16_224'"):
        segformer(3, 'vit_tiny_patch16_224')
    with pytest.raises(SegbookError, match='heads'): Attention(10, 3)

def test_an_encoder_with_too_few_stages_is_refused(monkeypatch):
    steps = [nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)]
    monkeypatch.setattr('segbook.architectures.blocks.encoder_body',
        lambda *args: nn.Sequential(*steps))
    with pytest.raises(SegbookError, match=r'strides \[2, 4, 8\], and none of \[16, 32\]'):
        segformer(3, 'resnet18')

def test_export_and_variants():
    assert list(MIX_TRANSFORMERS) == [f'b{i}' for i in range(6)]
    net = segformer(2, in_channels=1, width=32).eval()
    x = torch.rand(1, 1, 64, 96)
    with torch.no_grad(): want = net(x)
    again = torch.export.export(net, (x,), strict=False).module()
    assert torch.allclose(again(x), want, atol=1e-5)
    with torch.autocast('cpu', torch.bfloat16), torch.no_grad(): assert net(x).isfinite().all()
