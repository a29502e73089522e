"""The options' subspace against plain float64 arithmetic, token by token."""

import math

import pytest
import torch

from prunelib.errors import PrunelibError
from prunelib.measure import subspace

V, K = 1200, 4


@pytest.fixture
def pair():
    draw = torch.Generator().manual_seed(0)
    dense = 3 * torch.randn(5, V, generator=draw, dtype=torch.float64)
    pruned = dense + torch.randn(5, V, generator=draw, dtype=torch.float64)
    ids = torch.stack([torch.randperm(V, generator=draw)[:K] for _ in range(5)])
    return dense, pruned, ids


def softmax(z):
    top = max(z)
    weights = [math.exp(x - top) for x in z]
    return [w / math.fsum(weights) for w in weights]


def plain_kl(p, q):
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def plain_cosine(p, q):
    dot, pp, qq = (math.fsum(a * b for a, b in zip(x, y, strict=True)) for x, y in ((p, q), (p, p), (q, q)))
    return dot / math.sqrt(pp * qq)


def test_the_same_numbers_over_the_vocabulary_and_over_the_options(pair):
    dense, pruned, ids = pair
    whole = subspace.compare(dense, pruned)
    among = subspace.compare(subspace.restricted(dense, ids), subspace.restricted(pruned, ids))
    for i in range(len(dense)):
        p, q = softmax(dense[i].tolist()), softmax(pruned[i].tolist())
        kept = [[r[t] for t in ids[i].tolist()] for r in (p, q)]
        # p restricted and renormalised, not a softmax over the options' logits: they are the same.
        a, b = ([x / math.fsum(r) for x in r] for r in kept)
        for found, one, other in ((whole, p, q), (among, a, b)):
            assert float(found["kl_dense_pruned"][i]) == pytest.approx(plain_kl(one, other), rel=1e-11)
            assert float(found["kl_pruned_dense"][i]) == pytest.approx(plain_kl(other, one), rel=1e-11)
            assert 1 - float(found["one_minus_cos_p"][i]) == pytest.approx(plain_cosine(one, other), rel=1e-12)
            assert bool(found["top1_same"][i]) == (one.index(max(one)) == other.index(max(other)))


def test_mass_and_ranks_by_counting(pair):
    dense, _, ids = pair
    dense[0, ids[0, 1]] = dense[0, ids[0, 0]]  # a tie: neither is likelier
    for i in range(len(dense)):
        z, p = dense[i].tolist(), softmax(dense[i].tolist())
        assert float(subspace.mass(dense, ids)[i]) == pytest.approx(math.fsum(p[t] for t in ids[i].tolist()), rel=1e-12)
        expected = [1 + sum(x > z[t] for x in z) for t in ids[i].tolist()]
        assert subspace.ranks(dense, ids)[i].tolist() == expected


def test_the_chain_rule_is_exact_and_bounds_the_share_of_the_options(pair):
    dense, pruned, ids = pair
    split, whole = subspace.kl_split(dense, pruned, ids), subspace.compare(dense, pruned)["kl_dense_pruned"]
    torch.testing.assert_close(sum(split.values()), whole, rtol=1e-11, atol=0)
    for i in range(len(dense)):
        p, q = softmax(dense[i].tolist()), softmax(pruned[i].tolist())
        own = ids[i].tolist()
        mass_p, mass_q = (math.fsum(r[t] for t in own) for r in (p, q))
        assert float(split["options"][i]) == pytest.approx(
            mass_p * plain_kl([p[t] / mass_p for t in own], [q[t] / mass_q for t in own]), rel=1e-10
        )
        assert float(split["between"][i]) == pytest.approx(
            plain_kl([mass_p, 1 - mass_p], [mass_q, 1 - mass_q]), rel=1e-9, abs=1e-14
        )
    among = subspace.compare(subspace.restricted(dense, ids), subspace.restricted(pruned, ids))["kl_dense_pruned"]
    assert (among <= whole / subspace.mass(dense, ids) * (1 + 1e-12)).all()


def test_a_twin_gives_exactly_zero(pair):
    dense, _, ids = pair
    for z in (dense, dense.float()):
        own = subspace.restricted(z, ids)
        for found in (subspace.compare(z, z.clone()), subspace.compare(own, own.clone())):
            assert all((found[name] == 0).all() for name in found if name != "top1_same")
            assert found["top1_same"].all()
        assert all((part == 0).all() for part in subspace.kl_split(z, z.clone(), ids).values())
        assert all((moved == 0).all() for moved in subspace.movement(z, z.clone()))


def test_a_common_shift_changes_nothing(pair):
    dense, pruned, ids = pair
    shifted = pruned + 7.3

    def everything(z):
        bands = [subspace.by_band(dense, moved) for moved in subspace.movement(dense, z)]
        parts = (subspace.compare(dense, z), subspace.kl_split(dense, z, ids), *bands)
        one = {"mass": subspace.mass(z, ids), "margin": subspace.margin(subspace.restricted(z, ids))}
        one |= {"rank": subspace.ranks(z, ids).double()}
        among = subspace.compare(subspace.restricted(dense, ids), subspace.restricted(z, ids))
        return [number.double() for part in (*parts, one, among) for number in part.values()]

    for a, b in zip(everything(pruned), everything(shifted), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)
    # A model that only adds a constant has moved nothing.
    assert float(subspace.compare(dense, dense + 7.3)["kl_dense_pruned"].max()) < 1e-24
    assert float(subspace.movement(dense, dense + 7.3)[0].max()) < 1e-13


def test_bands_hold_every_token_once(pair):
    dense, pruned, _ = pair
    moved, centred = subspace.movement(dense, pruned)
    both = subspace.by_band(dense, torch.stack([moved, centred]))
    found, also = ({name: mean[kind] for name, mean in both.items()} for kind in (0, 1))
    for i in range(len(dense)):
        z, w = dense[i].tolist(), pruned[i].tolist()
        p, q = softmax(z), softmax(w)
        mean = math.fsum(b - a for a, b in zip(z, w, strict=True)) / V
        order = sorted(range(V), key=lambda t: -z[t])
        for name, some in (("1", order[:1]), ("2–10", order[1:10]), ("the rest", order[1000:])):
            by_hand = math.fsum(abs(math.log(q[t] / p[t])) for t in some) / len(some)
            assert float(found[name][i]) == pytest.approx(by_hand, rel=1e-10)
            by_hand = math.fsum(abs(w[t] - z[t] - mean) for t in some) / len(some)
            assert float(also[name][i]) == pytest.approx(by_hand, rel=1e-10)
    sizes = [(last or V) - first for first, last in subspace.BANDS.values()]
    assert sum(sizes) == V
    total = sum(found[name] * size for name, size in zip(subspace.BANDS, sizes, strict=True))
    torch.testing.assert_close(total, moved.sum(-1), rtol=1e-12, atol=0)
    assert subspace.by_band(dense[:, :90], moved[:, :90])["the rest"].isnan().all()


def test_the_control_leaves_the_options_out(pair):
    dense, _, ids = pair
    others = subspace.likeliest_others(dense, ids, K)
    for i in range(len(dense)):
        left = [t for t in dense[i].argsort(descending=True).tolist() if t not in ids[i].tolist()]
        assert others[i].tolist() == left[:K]
    with pytest.raises(PrunelibError, match="no 4 tokens beside 4 options"):
        subspace.likeliest_others(dense[:, :7], torch.arange(4).expand(5, 4), 4)


def test_margin_and_options_that_cannot_be_told_apart():
    assert float(subspace.margin(torch.tensor([0.5, 2.0, 1.25]))) == 0.75
    with pytest.raises(PrunelibError, match="same token"):
        subspace.restricted(torch.zeros(9), torch.tensor([3, 5, 3]))
