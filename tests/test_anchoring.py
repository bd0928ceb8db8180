"""The anchored general term: its formula as loops, what it cannot be fooled by, and the anchor's own state."""

import copy
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from relcons import (
    DualEncoderOutput,
    GramRelation,
    MultiEncoderOutput,
    RelationAnchor,
    RelationLoss,
    SampleRelation,
)
from relcons.functional import anchored_consistency, general_consistency, relation_matrix
from tests.reference import relation


class Encoder(nn.Module):
    def __init__(self, channels=5):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, channels, 3, stride=2)

    def forward(self, x):
        x = self.norm(self.first(x)).relu()
        return [x, self.second(x).relu()]


def model_of(count=1, levels=(-1,)):
    torch.manual_seed(0)
    encoders = nn.ModuleList(Encoder() for _ in range(count))
    return SimpleNamespace(general_encoders=encoders, levels=levels, channels=tuple((4, 5)[level] for level in levels))


def images(seed, count=3, scale=1.0):
    return scale * torch.rand(count, 1, 12, 10, generator=torch.Generator().manual_seed(seed))


def output_of(model, target, source):
    encoder = model.general_encoders[0]
    maps, others = encoder(target), encoder(source)
    return DualEncoderOutput(None, (), tuple(maps[i] for i in model.levels), tuple(others[i] for i in model.levels))


def maps(*seeds):
    random = [torch.Generator().manual_seed(seed) for seed in seeds]
    return [torch.rand(3, 4, 5, 6, generator=each, dtype=torch.float64) for each in random]


def loops(features):
    return torch.tensor(relation(features.numpy()), dtype=torch.float64)


def by_loops(source, general, source_start, general_start, shift, keep):
    total = 0.0
    for now, start, sign in ((source, source_start, 0.5), (general, general_start, -0.5)):
        total += float((loops(now) - loops(start) - sign * shift).square().sum())
        changes = [loops(now[i : i + 1]) - loops(start[i : i + 1]) for i in range(len(now))]
        mean = sum(changes) / len(changes)
        total += keep * sum(float((change - mean).square().sum()) for change in changes) / (len(changes) - 1)
    return total


@pytest.mark.parametrize(("reduction", "share"), [("sum", 1), ("row_mean", 1 / 4), ("mean", 1 / 16)])
def test_as_loops_from_the_formula(reduction, share):
    features, shift = maps(0, 1, 2, 3), maps(4)[0][0, :, :4, 0] - 0.5
    found = anchored_consistency(*features, shift[:, :4], keep=0.3, reduction=reduction)
    assert found.item() == pytest.approx(share * by_loops(*features, shift[:, :4], 0.3), rel=1e-9)


def test_a_twentieth_of_the_variance_unless_said_otherwise():
    features, shift = maps(0, 1, 2, 3), torch.zeros(4, 4, dtype=torch.float64)
    assert anchored_consistency(*features, shift) == anchored_consistency(*features, shift, keep=0.05)
    assert anchored_consistency(*features, shift) != anchored_consistency(*features, shift, keep=0.06)


def test_gradients():
    features = [each.requires_grad_() for each in maps(0, 1)] + maps(2, 3)
    shift = torch.zeros(4, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: anchored_consistency(a, b, *features[2:], shift), features[:2])
    started = [each.requires_grad_() for each in maps(2, 3)]
    anchored_consistency(*features[:2], *started, shift).backward()
    assert all(each.grad is None for each in started)


def test_features_that_relate_alike_do_not_please_it():
    """The printed term is 0 there; this one is far above its start."""
    source, general = (each - 0.5 for each in maps(0, 1))
    flat = torch.ones_like(source)
    shift = torch.zeros(4, 4, dtype=torch.float64)
    assert general_consistency(flat, flat) == 0
    assert anchored_consistency(flat, flat, source, general, shift) > 0.1
    assert anchored_consistency(source, general, source, general, shift) == 0


def test_one_image_has_no_variance():
    features = [each[:1] for each in maps(0, 1, 2, 3)]
    shift = torch.zeros(4, 4, dtype=torch.float64)
    assert torch.equal(
        anchored_consistency(*features, shift, keep=9.0), anchored_consistency(*features, shift, keep=0.0)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    features = [each.to(dtype) for each in maps(0, 1, 2, 3)]
    found = anchored_consistency(*features, torch.zeros(4, 4))
    wanted = anchored_consistency(*(each.double() for each in features), torch.zeros(4, 4, dtype=torch.float64))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(wanted.item(), rel=1e-4)


@pytest.mark.parametrize("features", [torch.zeros(2, 3, 4), torch.ones(2, 3, 4), torch.rand(2, 3, 1)])
def test_degenerate_maps_have_finite_gradients(features):
    now = features.clone().requires_grad_()
    anchored_consistency(now, now * 2, features, features, torch.zeros(3, 3)).backward()
    assert now.grad.isfinite().all()


def test_maps_of_other_images_are_refused():
    one, two, *rest = maps(0, 1, 2, 3)
    with pytest.raises(ValueError, match=r"source has shape \(2, .* source_start \(3, .* of the same images and level"):
        anchored_consistency(one[:2], two, *rest, torch.zeros(4, 4))
    with pytest.raises(ValueError, match=r"general has shape \(2, .* general_start \(3, .* of the same images and le"):
        anchored_consistency(one, two[:2], *rest, torch.zeros(4, 4))
    with pytest.raises(ValueError, match="source and general must have the same number of channels, got"):
        anchored_consistency(one, two[:, :3], *rest, torch.zeros(4, 4))


def test_the_loss_starts_from_the_copy_and_the_shift_is_a_running_mean():
    model = model_of()
    anchor = RelationAnchor(model, keep=0.2)
    loss, related = RelationLoss(weight=2.0, target=False, anchor=anchor), GramRelation()
    shifts = []
    for seed in range(3):
        target, source = images(seed), images(seed + 10, count=2, scale=3.0)
        output = output_of(model, target, source)
        shifts.append((related(output.general[0]) - related(output.source[0])).detach())
        mean = torch.stack(shifts).mean(0)
        terms = loss.terms(output, target, source)
        wanted = anchored_consistency(*2 * (output.source[0], output.general[0]), mean, keep=0.2)
        torch.testing.assert_close(terms.general, wanted)
        torch.testing.assert_close(terms.total, 2 * wanted)
    assert anchor.steps == 3


def test_a_look_at_the_terms_counts_no_batch():
    model = model_of()
    loss = RelationLoss(target=False, anchor=RelationAnchor(model))
    target, source = images(0), images(1, scale=3.0)
    trained = loss.terms(output_of(model, target, source), target, source)
    with torch.no_grad():
        seen = loss.terms(output_of(model, target, source), target, source)
        # Of other images the mean would change.
        loss(output_of(model, images(2), images(3)), images(2), images(3))
        again = loss.terms(output_of(model, target, source), target, source)
    assert loss.anchor.steps == 1
    torch.testing.assert_close((seen.general, again.general), (trained.general.detach(),) * 2)
    loss(output_of(model, target, source), target, source)
    assert loss.anchor.steps == 2


@pytest.mark.parametrize("made_in", ["training", "evaluation"])
def test_copies_follow_the_loss_but_for_layers_at_rest(made_in):
    """Batch norm that keeps its statistics does so in the copy; an encoder made in evaluation tells nothing."""
    model = model_of()
    encoder = model.general_encoders[0].train(made_in == "training")
    encoder.norm.eval()
    loss = RelationLoss(target=False, anchor=RelationAnchor(model))
    at_rest = [True, True] if made_in == "training" else [False, True]
    for mode, rests in zip((True, False), at_rest, strict=True):
        norm = copy.deepcopy(loss).train(mode).anchor.encoders[0].norm
        assert loss.train(mode).anchor.encoders[0].first.training is mode
        assert loss.anchor.encoders[0].norm.training is norm.training is not rests
    loss.train()
    encoder.train().norm.train(not at_rest[0])
    target, source = images(0), images(1, scale=3.0)
    with torch.no_grad():
        assert loss(output_of(model, target, source), target, source) < 1e-9


def test_the_encoder_moves_and_its_copy_stays():
    model = model_of()
    loss = RelationLoss(target=False, anchor=RelationAnchor(model))
    before = copy.deepcopy(loss.anchor.encoders[0].state_dict())
    optimizer = torch.optim.SGD(model.general_encoders.parameters(), 0.1)
    target, source = images(0), images(1, scale=3.0)
    for _ in range(2):
        optimizer.zero_grad()
        loss(output_of(model, target, source), target, source).backward()
        optimizer.step()
    assert all(parameter.grad is None for parameter in loss.parameters())
    weights = [name for name in before if not name.startswith("norm.running") and "tracked" not in name]
    assert all(torch.equal(loss.anchor.encoders[0].state_dict()[name], before[name]) for name in weights)
    assert any(not torch.equal(model.general_encoders[0].state_dict()[name], before[name]) for name in weights)


def test_images_are_related_one_by_one_as_the_batch_is():
    """Centred, and with another share of dead channels."""
    model, target, source = model_of(), images(0), images(1, scale=3.0)
    loss = RelationLoss(target=False, anchor=RelationAnchor(model), relation=GramRelation(center=True, eps=0.3)).eval()
    encoder, copied = model.general_encoders[0].eval(), loss.anchor.encoders[0]
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.rand(parameter.shape, generator=torch.Generator().manual_seed(0)))
    expected = anchored_consistency(
        *(each(batch)[-1] for each in (encoder, copied) for batch in (source, target)),
        torch.zeros(()),
        relation=partial(relation_matrix, center=True, eps=0.3),
        each=partial(relation_matrix, batch="none", center=True, eps=0.3),
    )
    found = loss.terms(output_of(model, target, source), target, source).general
    torch.testing.assert_close(found, expected)


def test_state_is_kept_and_forgotten():
    model = model_of(levels=(0, -1))
    loss = RelationLoss(target=False, anchor=RelationAnchor(model))
    target, source = images(0), images(1, scale=3.0)
    loss(output_of(model, target, source), target, source)
    other = RelationLoss(target=False, anchor=RelationAnchor(model_of(levels=(0, -1))))
    with torch.no_grad():
        for parameter in other.anchor.parameters():
            parameter.zero_()
    other.load_state_dict(loss.state_dict())
    assert other.anchor.steps == 1
    expected = loss(output_of(model, target, source), target, source)
    torch.testing.assert_close(other(output_of(model, target, source), target, source), expected)
    loss.step(3)
    loss.reset_parameters()
    assert (loss._step, loss.anchor.steps.item(), loss.anchor.shift_0_0.any().item()) == (0, 0, False)
    assert torch.equal(loss.anchor.encoders[0].first.weight, model.general_encoders[0].first.weight)


def test_evaluation_counts_nothing():
    model = model_of()
    loss = RelationLoss(target=False, anchor=RelationAnchor(model)).eval()
    target, source = images(0), images(1)
    loss(output_of(model, target, source), target, source)
    assert (loss.anchor.steps.item(), loss.anchor.shift_0_0.any().item()) == (0, False)


def test_several_general_encoders_of_which_one_has_no_batch():
    model = model_of(count=2)
    loss = RelationLoss(target=False, anchor=RelationAnchor(model))
    target, source = images(0), images(1)
    generals = tuple((encoder(target)[-1],) for encoder in model.general_encoders)
    output = MultiEncoderOutput(None, (), generals, ((model.general_encoders[0](source)[-1],), None))
    alone = RelationLoss(target=False, anchor=RelationAnchor(model_of()))
    expected = alone(DualEncoderOutput(None, (), generals[0], output.source[0]), target, source)
    torch.testing.assert_close(loss(output, target, (source, None)), expected)
    with pytest.raises(ValueError, match=r"one source batch .or None. for each of 2 general encoders"):
        loss(output, target, source)


def test_unlabelled_images_pass_apart_as_in_the_model():
    model = model_of()
    target, unlabelled, source = images(0), images(5, count=2, scale=2.0), images(1, scale=3.0)
    encoder = model.general_encoders[0]
    apart = torch.cat([encoder(batch)[-1] for batch in (target, unlabelled)])
    output = DualEncoderOutput(None, (), (apart,), (encoder(source)[-1],))
    loss = RelationLoss(target=False, anchor=RelationAnchor(model)).eval()
    loss.anchor.encoders.train()
    # In evaluation there is no shift yet: at the start the term is 0 where batch norm saw the same batches.
    assert loss.terms(output, (target, unlabelled), source).general < 1e-9
    assert loss.terms(output, torch.cat([target, unlabelled]), source).general > 1e-6


def test_compile():
    model = model_of()
    loss = RelationLoss(target=False, anchor=RelationAnchor(model)).eval()
    target, source = images(0), images(1, scale=3.0)
    with torch.no_grad():
        output = output_of(model, target, source)
    compiled = torch.compile(lambda *given: loss(*given), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(output, target, source), loss(output, target, source))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda m: RelationAnchor(nn.Identity()), TypeError, "model must be a DualEncoderUNet .* got Identity"),
        (lambda m: RelationAnchor(m, keep=-1.0), ValueError, "keep must be 0 or more, got -1"),
        (lambda m: RelationAnchor(m, keep=float("nan")), ValueError, "keep must be a finite number"),
        (lambda m: RelationLoss(anchor=m), TypeError, r"anchor must be a RelationAnchor, .*write RelationAnchor\("),
        (lambda m: RelationLoss(general=False, anchor=RelationAnchor(m)), ValueError, "general is False; leave one"),
        (
            lambda m: RelationLoss(relation=SampleRelation(), anchor=RelationAnchor(m)),
            ValueError,
            "anchor needs a GramRelation of batches as the relation, got SampleRelation",
        ),
        (
            lambda m: RelationLoss(target=False, anchor=RelationAnchor(m))(output_of(m, images(0), images(1))),
            ValueError,
            r"anchor needs the images that the model was called with: relation\(output, x_target, x_source\)$",
        ),
    ],
)
def test_refuses(make, error, message):
    with pytest.raises(error, match=message):
        make(model_of())


def test_a_model_without_weights_is_refused():
    with torch.device("meta"):
        model = model_of()
    with pytest.raises(ValueError, match="model is on the meta device, without weights to hold to"):
        RelationAnchor(model)
