"""The 4D tokenizer: published names and sizes, and slow twins of its parts."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from world_model.core.errors import ConfigError, DataError
from world_model.models.occsora import SoraTokenizer, SoraTokenizerConfig, base, tiny
from world_model.models.occsora.tokenizer import AxialAttention, Conv, LineAttention, TransposedConv

Shapes = dict[str, tuple[int, ...]]


def published_shapes() -> Shapes:
    """Names and shapes of the released tokenizer, as the published tables give them."""
    found: Shapes = {"class_embeds.weight": (18, 8), "vqvae.embedding.weight": (512, 128)}

    def biased(name: str, *shape: int, bias: int | None = None) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = shape, (bias or shape[0],)

    def norm(name: str, width: int) -> None:
        biased(name, width)
        found[f"{name}.running_mean"] = found[f"{name}.running_var"] = (width,)
        found[f"{name}.num_batches_tracked"] = ()

    for i in range(3):
        biased(f"encoder_gpt.convs.{i}.conv", 512, 512 if i else 128, 4, 4, 4)
        last = 128 if i == 2 else 512
        biased(f"decoder_gpt.convts.{i}.convt", 512, last, 4, 4, 4, bias=last)
    biased("encoder_gpt.conv_last.conv", 512, 512, 3, 3, 3)
    for side in ("encoder_gpt", "decoder_gpt"):
        norm(f"{side}.res_stack.4", 512)
        for block in (f"{side}.res_stack.{i}.block" for i in range(4)):
            for place, width in ((0, 512), (3, 256), (6, 512)):
                norm(f"{block}.{place}", width)
            found[f"{block}.2.conv.weight"], found[f"{block}.5.conv.weight"] = (256, 512, 3, 3, 3), (512, 256, 1, 1, 1)
            for axis in ("attn_w", "attn_h", "attn_t"):
                biased(f"{block}.8.{axis}.fc", 512, 512)
                found |= {f"{block}.8.{axis}.{part}.weight": (512, 512) for part in ("w_qs", "w_ks", "w_vs")}
    biased("pre_vq_conv.conv", 128, 512, 1, 1, 1)
    biased("post_vq_conv.conv", 512, 128, 1, 1, 1)
    biased("vqvae.quant_conv", 128, 128, 1, 1, 1)
    biased("vqvae.post_quant_conv", 128, 128, 1, 1, 1)
    return found


def test_published_names_and_sizes() -> None:
    with torch.device("meta"):
        model = SoraTokenizer(base()[0])
    state = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert state == published_shapes()
    assert len(state) == 290 and sum(name.split(".")[-1] in BUFFERS for name in state) == 78
    assert sum(p.numel() for p in model.parameters()) == 137_369_744
    assert sum(p.numel() for p in model.encoder_gpt.parameters()) == 72_109_056
    assert sum(p.numel() for p in model.decoder_gpt.parameters()) == 65_030_272
    assert model.config.sizes == [(32, 200, 200), (16, 100, 100), (8, 50, 50), (4, 25, 25)]
    assert model.config.latent_shape == (128, 4, 25, 25)


BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def labels(config: SoraTokenizerConfig, batch: int = 1, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, config.frames, *config.grid.shape)
    few = torch.rand(shape, generator=generator) < 0.1
    drawn = torch.randint(0, 18, shape, generator=generator, dtype=torch.uint8)
    return torch.where(few, drawn, torch.tensor(17, dtype=torch.uint8))


@pytest.mark.parametrize("stem", [0, 8])
def test_folding_is_the_embedding_of_every_voxel(stem: int) -> None:
    torch.manual_seed(0)
    model = SoraTokenizer(replace(tiny()[0], stem=stem)).double()
    config, p = model.config, model.config.patch
    frames = labels(config)[0, :2]
    embedded = model.class_embeds.weight[frames.long()]
    slow = torch.zeros(2, config.folded, 10, 10, dtype=torch.float64)
    width = config.grid.shape[2] * config.class_embed
    for x in range(p):
        for y in range(p):
            begin = (x * p + y) * width
            slow[:, begin : begin + width] = embedded[:, x::p, y::p].flatten(3).permute(0, 3, 1, 2)
    torch.testing.assert_close(
        model._folded(frames), model.stem_in(slow.movedim(1, -1)).movedim(-1, 1) if stem else slow
    )


def test_decoding_takes_the_best_class_of_every_voxel() -> None:
    torch.manual_seed(0)
    model = SoraTokenizer(tiny()[0]).eval()
    config, p = model.config, model.config.patch
    torch.nn.init.normal_(model.stem_out.weight)
    with torch.no_grad():
        latent = torch.randn(2, *config.latent_shape)
        drawn = model.decode(latent)
        rows = model.rows(model.decode_maps(latent)) @ model.class_embeds.weight.t()
    assert drawn.shape == (2, config.frames, *config.grid.shape) and drawn.dtype == torch.uint8
    x, y, z = config.grid.shape
    best = rows.argmax(1).view(2, config.frames, x // p, y // p, p, p, z).transpose(4, 3).transpose(3, 4)
    slow = best.permute(0, 1, 2, 4, 3, 5, 6).reshape(drawn.shape)
    assert (slow == drawn).float().mean() > 0.9999


def test_axial_attention_is_attention_along_each_line() -> None:
    torch.manual_seed(0)
    model = AxialAttention(8, 2).double()
    x = torch.randn(2, 8, 3, 4, 5, dtype=torch.float64)

    def line(layer: LineAttention, cells: Tensor) -> Tensor:
        """Cells (L, C)."""
        out = []
        for head in range(2):
            own = slice(4 * head, 4 * head + 4)
            q, k, v = ((cells @ part.weight.t())[:, own] for part in (layer.w_qs, layer.w_ks, layer.w_vs))
            out.append((q @ k.t() / 2).softmax(1) @ v)
        attended: Tensor = layer.fc(torch.cat(out, 1))
        return attended

    slow = torch.zeros_like(x)
    for b in range(2):
        for t in range(3):
            for i in range(4):
                slow[b, :, t, i] += line(model.attn_w, x[b, :, t, i].t()).t()
            for j in range(5):
                slow[b, :, t, :, j] += line(model.attn_h, x[b, :, t, :, j].t()).t()
        for i in range(4):
            for j in range(5):
                slow[b, :, :, i, j] += line(model.attn_t, x[b, :, :, i, j].t()).t()
    torch.testing.assert_close(model(x), slow)


def test_convolutions_keep_or_halve_and_double_exactly() -> None:
    x = torch.randn(1, 2, 8, 13, 25)
    assert Conv(2, 3, 3)(x).shape == (1, 3, 8, 13, 25)
    assert Conv(2, 3, 3, (2, 2, 2))(x).shape == (1, 3, 4, 7, 13)
    assert Conv(2, 3, 3, (2, 1, 1))(x).shape == (1, 3, 4, 13, 25)
    up = TransposedConv(2, 3, (2, 2, 2))
    assert up(x, (16, 26, 50)).shape == (1, 3, 16, 26, 50) and up(x, (16, 25, 50)).shape == (1, 3, 16, 25, 50)
    # As published: one cell of zeros around the input, three cells cut off the result.
    published = F.conv_transpose3d(F.pad(x, [1] * 6), up.convt.weight, up.convt.bias, stride=2, padding=3)
    torch.testing.assert_close(up(x, (16, 26, 50)), published)


def test_a_batch_is_its_clips() -> None:
    torch.manual_seed(0)
    model = SoraTokenizer(tiny()[0]).double()
    clips = labels(model.config, batch=2)
    model.latent(clips)  # statistics of some batch
    model.eval()
    both, _, codes = model.reconstruct(clips)
    for n in range(2):
        one, _, code = model.reconstruct(clips[n : n + 1])
        torch.testing.assert_close(one, both[n : n + 1])
        assert torch.equal(code, codes[n : n + 1])
        assert torch.equal(model.decode(both[n : n + 1])[0], model.decode(both)[n])


def test_the_code_is_the_nearest_and_gradients_pass_it() -> None:
    torch.manual_seed(0)
    book = SoraTokenizer(tiny()[0]).vqvae.double()
    torch.nn.init.normal_(book.embedding.weight)
    cells = torch.randn(2, 4, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    through, loss, code = book.quantize(cells)
    slow = (cells.movedim(1, -1)[..., None, :] - book.embedding.weight).square().sum(-1).argmin(-1)
    assert torch.equal(code, slow)
    plain = book.embedding(code).permute(0, 4, 1, 2, 3)
    torch.testing.assert_close(through, plain)
    torch.testing.assert_close(loss, 2 * (cells - plain).square().mean())
    through.sum().backward()
    assert cells.grad is not None and torch.equal(cells.grad, torch.ones_like(cells))


def test_what_does_not_fit_is_refused() -> None:
    model = SoraTokenizer(tiny()[0])
    with pytest.raises(DataError, match=r"a window of 5 frames.*\n.*8 consecutive keyframes"):
        model.latent(labels(model.config)[:, :5])
    with pytest.raises(DataError, match="voxels"):
        model.latent(labels(model.config)[:, :, :20])
    with pytest.raises(ConfigError, match="halved"):
        SoraTokenizerConfig(frames=12)
    with pytest.raises(ConfigError, match="patch"):
        SoraTokenizerConfig(patch=3)
