"""What ``--help`` says below the options."""

EPILOG = """\
examples:
  prunelib run                                     all notebooks, default model, profile quick
  prunelib run --model Qwen/Qwen2.5-0.5B-Instruct  the same for a model of the hub
  prunelib run 05 --profile smoke -p drop_count=4  one notebook, its own parameter changed
  prunelib run --shard 2/4                         the second of four shares, for a batch of four jobs
  prunelib book --run runs/Qwen--Qwen2.5-0.5B-Instruct/quick
  prunelib book --reference --pdf                  the committed results as a site and as one PDF
  prunelib compress --spec wanda:2:4 --out DIR     a pruned model that transformers loads
  prunelib select --budget 8 --out plan.json       which sublayers to drop, by the KL that their removal causes
  prunelib kl --against wanda:2:4                  how far its next-token distributions are from the dense ones
  prunelib compare runs/A/quick runs/B/quick       claims and curves of several runs, and the paper's
  prunelib cite fig-layerwise-attn                 BibTeX of a figure
  prunelib whence figure.pdf                       which run, model and code drew this file
"""

COMPRESS_EPILOG = """\
specifications:
{usage}

  P = 0.5 removes half of the weights, 2:4 keeps 2 of every 4 in a row. B = 2 to 8 bits, one scale for G weights in
  a row (no gG: for the row); sym: symmetric grid; act: activation order. N sublayers that turn the residual stream
  least; KINDS: attn, mlp, block, joint (attention and MLP in one ranking), angular (consecutive blocks);
  drop:attn:8:iter measures again after each. drop:kl:KINDS:N drops what moves the next-token distributions least,
  measured again after each (drop:kl:mlp:8:once: not), KINDS: attn, mlp, attn+mlp, block; varp and tv likewise; each
  removal reads all calibration tokens, so give it few: --sequences 8 --length 48. drop:random:mlp:8:seed3 draws.
  + joins methods: wanda:0.5+drop:mlp:4 removes weights, then sublayers; drop:mlp:4+lora:8 repairs what it dropped,
  from the calibration tokens. R is a rank. --calibration answers: the model's own answers to questions on passages,
  at most 28 sequences, none of which the chapters ask about.

examples:
  prunelib compress --spec wanda:2:4 --out smollm2-wanda
  prunelib compress --spec drop:attn:8 --out smollm2-drop8a --calibration my-texts.txt
  prunelib compress --plan plan.json --out smollm2-drop8
  prunelib compress --spec drop:mlp:4+linear --out smollm2-repaired --calibration answers --sequences 28 --length 256
  prunelib compress --model Qwen/Qwen2.5-0.5B --spec gptq:4:g64 --out qwen-gptq4 --sequences 128 --length 256

DIR loads with AutoModelForCausalLM.from_pretrained, prunelib.load or `prunelib run --model DIR`. Its weights are
plain floats, quantized ones on their grid, removed ones zero: the folder is not smaller. DIR/prunelib.json says
what was done to which model, on which tokens, and how many bits the weights would take.
"""

SELECT_EPILOG = """\
Each site (a sublayer, or a whole block) is removed in turn from the model as the drops so far left it, and what that
does is measured on the calibration text. The site that does least is dropped, and so on. So a plan begins with the
plans of smaller budgets: cut the printed list of sites where you like.

  kl      KL(dense ‖ pruned) of the next token in nats: how much the output changes
  varp    variance of the logit change under the dense probabilities; half of it is about the KL (Theorem 3)
  tv      total variation: the share of tokens that would be drawn otherwise
  cosine  of the residual stream before and after the sublayer, highest first; with --once the paper's ranking
  random  a draw with --seed, for comparison

The first three remove each site and compare the output with the dense model's at 8 positions of each sequence. They run
the blocks from the removed site on, for every candidate: the time grows with tokens × budget × layers². The model must
fit in memory as it is; beside it stand the streams in front of every block, and the logits at those positions.
Sites are written as attn:12, layers are counted from 0.

examples:
  prunelib select --budget 8 --out plan.json
  prunelib select --criterion tv --kinds mlp --budget 4 --calibration my-texts.txt
  prunelib select --criterion cosine --once --kinds attn --budget 8
  prunelib select --model Qwen/Qwen2.5-0.5B-Instruct --kinds block --budget 6 --sequences 16 --length 64
  prunelib compress --plan plan.json --out pruned
"""

KL_EPILOG = """\
Both models read the same tokens. At each one that is followed by another their distributions of the next token, p
(--model, called dense) and q (--against, called pruned), are compared in float64. B is a model of the same
vocabulary: an alias, a hub id, a folder or a .gguf file. SPEC is what to do to the model, such as wanda:0.5
(`prunelib compress --help` lists all), calibrated as `prunelib compress` does.

  KL(dense ‖ pruned)   Σ p log(p/q) in nats: mean, percentiles over the tokens, maximum; KL(pruned ‖ dense): mean
  Δp                   q − p of the token that stands in the text; also RMS for the dense model's top token
  same top k           the k most likely tokens are the same, in the same order
  perplexity           of the text under each model; the ratio is that of the same tokens
  flips                the token in the text is on top for one of the models only
  p                    of the paired tests, both models on the same tokens: bootstrap of whole clusters, McNemar

Intervals are 95 %, over clusters: the texts of a .jsonl, or the pieces of a single .txt; one cluster has none. Texts
are read without chat template and cut every --window tokens, without overlap. Each piece is read alone, and its first
token is given. A .jsonl has a field "text" in each row. Of a token a few numbers are kept, whatever the vocabulary.

examples:
  prunelib kl --against wanda:2:4
  prunelib kl --against pruned-folder --text my-texts.jsonl --window 512
  prunelib kl --model Qwen/Qwen2.5-0.5B --against gptq:4:g64 --sequences 128 --length 256 --json > q4.json
"""

COMPARE_EPILOG = """\
RUN is a folder that `prunelib run` made (runs/MODEL/PROFILE), or a committed reference (data/reference/MODEL): any
number of them, of any models. What a run did not measure reads "not run". Verdicts are those of today's rules on the
numbers that each run recorded.

Without --out the claims are printed, a row a claim (and part), a column a run. With --out DIR a page is written with
the same table and two figures on common axes, the paper's curves among them: cosine of h, z and p by relative depth,
and the share of the dense score kept by the share of layers dropped; with their data as CSV, and all of it as JSON.

examples:
  prunelib compare data/reference/smollm2-135m-instruct runs/smollm2-135m-instruct/quick
  prunelib compare runs/*/quick --out side-by-side
  prunelib compare runs/*/full --json > runs.json

`prunelib run --beside DIR,…` shows other runs in the figures of a run's own book, and on its page "Beside other runs".
"""
