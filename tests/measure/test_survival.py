"""How long texts agree: the one-step law by enumeration and by draws, and its product over steps."""

import itertools

import numpy as np
import pytest
import torch

from prunelib.engine.decode import Gumbel
from prunelib.measure import survival


def pairs(n: int, size: int, seed: int = 0, scale: float = 2.0):
    made = torch.Generator().manual_seed(seed)
    z = torch.randn(2, n, size, generator=made, dtype=torch.float64) * scale
    return torch.log_softmax(z, -1)


def by_hand(log_p, log_q):
    """w_i = 1 / Σ_j max(p_j/p_i, q_j/q_i), [V]."""
    p, q = log_p.exp(), log_q.exp()
    return torch.stack([1 / torch.maximum(p / p[i], q / q[i]).sum() for i in range(len(p))])


def test_one_step_is_that_of_the_definition():
    log_p, log_q = pairs(20, 7)
    for a, b in zip(log_p, log_q, strict=True):
        w = by_hand(a, b)
        for token in range(7):
            found = survival.agreement(a[None], b[None], torch.tensor([token]))
            assert found.common.item() == pytest.approx((w[token] / a[token].exp()).item(), rel=1e-12)
            assert found.best.item() == pytest.approx(min(1, (b[token] - a[token]).exp().item()), rel=1e-12)
            assert found.tv.item() == pytest.approx(0.5 * (a.exp() - b.exp()).abs().sum().item(), rel=1e-12)
        assert survival.agreeing(a[None], b[None]).item() == pytest.approx(w.sum().item(), rel=1e-12)


def test_draws_with_common_noise_agree_as_often_as_the_law_says():
    log_p, log_q = pairs(1, 5, seed=3)
    draws = 20_000
    noise = torch.stack([Gumbel(seed=1).noise(row, 0, 5) for row in range(draws)])
    same = ((log_p + noise).argmax(-1) == (log_q + noise).argmax(-1)).double().mean().item()
    law = survival.agreeing(log_p, log_q).item()
    assert abs(same - law) < 4 * (law * (1 - law) / draws) ** 0.5  # four standard errors: fails once in 16,000


def test_a_step_disagrees_between_tv_and_its_bound():
    for scale in (0.1, 1.0, 5.0, 20.0):
        log_p, log_q = pairs(200, 11, scale=scale)
        tv = survival.agreement(log_p, log_q, torch.zeros(200, dtype=torch.long)).tv
        differ = 1 - survival.agreeing(log_p, log_q)
        assert (differ >= tv - 1e-12).all() and (differ <= 2 * tv / (1 + tv) + 1e-12).all()


def test_equal_distributions_always_agree():
    log_p, _ = pairs(4, 9)
    found = survival.agreement(log_p, log_p, torch.arange(4))
    assert (found.tv == 0).all() and (found.best == 1).all() and (found.common == 1).all()


@pytest.mark.parametrize("coupling", ["common", "best"])
def test_the_product_along_dense_texts_is_the_probability_of_agreeing(coupling):
    """Four steps over three tokens, each text with distributions of its own: everything enumerated."""
    made = torch.Generator().manual_seed(5)
    steps, size = 4, 3
    kernel = {
        prefix: torch.log_softmax(torch.randn(2, size, generator=made, dtype=torch.float64), -1)
        for n in range(steps)
        for prefix in itertools.product(range(size), repeat=n)
    }
    exact, expected = np.zeros(steps), np.zeros(steps)
    for t in range(1, steps + 1):
        for text in itertools.product(range(size), repeat=t):
            both, dense, along = 1.0, 1.0, []
            for s, token in enumerate(text):
                log_p, log_q = kernel[text[:s]]
                w = by_hand(log_p, log_q) if coupling == "common" else torch.minimum(log_p, log_q).exp()
                both *= w[token].item()
                dense *= log_p[token].exp().item()
                found = survival.agreement(log_p[None], log_q[None], torch.tensor([token]))
                along.append(getattr(found, coupling))
            exact[t - 1] += both
            expected[t - 1] += dense * survival.surviving(torch.stack(along).T)[0, -1].item()
    assert expected == pytest.approx(exact, rel=1e-10)
