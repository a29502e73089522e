"""The one decoder: how tokens are chosen, against distributions by hand; observers and forced text, in every family."""

import pytest
import torch

from prunelib.engine.decode import Forced, Gumbel, Sampled, Step, decode, forced
from prunelib.errors import PrunelibError

Z = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.0, 0.0, 0.0, 3.0]])
PROMPTS = [[5, 6, 7, 8, 9, 10], [11, 12], [5, 6, 7, 20]]


def frequencies(choose, temperature, draws=4000):
    """Share of each token among many texts, of the first distribution."""
    z = Z[:1].expand(draws, -1)
    chosen = choose(z, range(draws), 0)
    return torch.bincount(chosen, minlength=4) / draws, torch.softmax(Z[0].double() / temperature, -1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_have_the_probabilities_of_softmax(temperature):
    """4,000 draws: a share is off by at most 0.03 but once in 10,000 tests (4 standard errors of 0.0079)."""
    for choose in (Sampled.seeded(4000, 1, 3, temperature), Gumbel(3, temperature)):
        found, wanted = frequencies(choose, temperature)
        assert (found - wanted).abs().max() < 0.032


def test_a_draw_is_the_inverse_of_the_cumulative_distribution():
    cumulative = torch.softmax(Z[0].double(), -1).cumsum(0)
    for token in range(4):
        low = cumulative[token - 1] if token else torch.tensor(0.0, dtype=torch.float64)
        for draw in (low + 1e-9, cumulative[token] - 1e-9):
            assert Sampled(draw.reshape(1, 1))(Z[:1], [0], 0).item() == token
    assert Sampled(torch.tensor([[1 - 2**-53]]))(Z[:1], [0], 0).item() == 3  # rounding leads to no token beyond


@pytest.mark.parametrize(("top_p", "inside"), [(0.5, {0}), (0.7, {0, 1}), (0.95, {0, 1, 2}), (1.0, {0, 1, 2, 3})])
def test_the_nucleus_holds_the_fewest_tokens_that_reach_its_probability(top_p, inside):
    # softmax(Z[0]) = 0.644, 0.237, 0.087, 0.032
    draws = torch.linspace(0, 1 - 1e-9, 2000, dtype=torch.float64)[:, None]
    chosen = Sampled(draws, top_p=top_p)(Z[:1].expand(2000, -1), range(2000), 0)
    assert set(chosen.tolist()) == inside


def test_gumbel_noise_is_common_to_models_and_new_for_every_text_step_and_seed():
    gumbel = Gumbel(seed=5)
    noise = gumbel.noise(2, 7, 1000)
    assert torch.equal(noise, Gumbel(seed=5, temperature=0.3).noise(2, 7, 1000))
    for other in (gumbel.noise(3, 7, 1000), gumbel.noise(2, 8, 1000), Gumbel(6).noise(2, 7, 1000)):
        assert abs(torch.corrcoef(torch.stack([noise, other]))[0, 1]) < 0.15
    close = Z + 1e-6 * torch.randn(Z.shape, generator=torch.Generator().manual_seed(0))
    texts = [torch.stack([gumbel(z, [0, 1], step) for step in range(200)]) for z in (Z, close)]
    assert torch.equal(*texts)  # nearly the same distributions write the same text


def watched(lm, *arguments, **options) -> tuple[list, dict]:
    seen: dict[tuple[int, int], torch.Tensor] = {}

    def observe(step: Step):
        for place, row in enumerate(step.rows):
            seen[row, step.number] = step.logits[place].clone()

    return decode(lm, *arguments, observe=observe, **options), seen


def test_forced_text_shows_what_one_pass_over_it_shows(lm):
    """In every family: along given tokens of different lengths, the distributions of a plain forward pass."""
    given = [[3, 4, 5, 6], [7, 8], [9]]
    seen = {}
    forced(lm, PROMPTS, given, lambda s: seen.update({(r, s.number): s.logits[i] for i, r in enumerate(s.rows)}))
    assert set(seen) == {(row, step) for row, ids in enumerate(given) for step in range(len(ids))}
    for row, (prompt, ids) in enumerate(zip(PROMPTS, given, strict=True)):
        with torch.no_grad():
            whole = lm.model(input_ids=torch.tensor([[*prompt, *ids]]), use_cache=False).logits[0].float()
        for step in range(len(ids)):
            torch.testing.assert_close(seen[row, step], whole[len(prompt) - 1 + step], rtol=1e-4, atol=1e-4)


def test_a_text_forced_on_itself_is_what_was_written(tiny):
    lm = tiny("llama")
    written, free = watched(lm, PROMPTS, 5, end=())
    again, along = watched(lm, PROMPTS, 5, Forced([made.ids for made in written]), end=())
    assert again == written and free.keys() == along.keys()
    assert all(torch.equal(free[key], along[key]) for key in free)  # the twin: exactly zero
    assert all(free[row, step].argmax() == ids.ids[step] for row, ids in enumerate(written) for step in range(5))


@pytest.mark.parametrize("choose", [Sampled.seeded(3, 6, 1), Gumbel(1)], ids=["sampled", "gumbel"])
def test_a_text_does_not_depend_on_the_batch(tiny, choose):
    lm = tiny("gpt2")
    together = decode(lm, PROMPTS, 6, choose, end=())
    assert decode(lm, PROMPTS, 6, choose, end=(), batch_size=1) == together


def test_nothing_suppressed_is_chosen_and_the_observer_sees_it_all_the_same(tiny):
    lm = tiny("llama")
    first, seen = watched(lm, PROMPTS, 4, end=())
    common = [made.ids[0] for made in first]
    other, along = watched(lm, PROMPTS, 4, end=(), suppress=common)
    assert not {token for made in other for token in made.ids} & set(common)
    assert all(torch.equal(seen[row, 0], along[row, 0]) for row in range(3))


def test_each_text_has_its_own_limit(tiny):
    made = decode(tiny("llama"), PROMPTS, [1, 4, 2], end=())
    assert [len(one.ids) for one in made] == [1, 4, 2] and not any(one.ended for one in made)
    with pytest.raises(PrunelibError, match="max_new must be at least 1, got 0"):
        decode(tiny("llama"), PROMPTS, [1, 0, 2])
