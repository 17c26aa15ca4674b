"""Mistakes in PAR's experiments of tests/test_config_errors.py.

They are made in tests/config_errors_par.yaml.
"""

from __future__ import annotations

from tests.config_mistakes_codes import CODE_MISTAKES, TOKENIZER_MISTAKES

# Name -> ((old text, new text), the error without file and line). Its line is that of
# the old text, unless a third entry is the text of another one.
_MODEL = {
    "guidance of a model that always knew the class": (
        (
            "train: {codes: flips, steps: 40,",
            "train: {codes: flips, drop_label: 0, steps: 40,",
        ),
        "experiments.one.samplers.cfg.cfg_scale: guidance of a model that always knew "
        "the class; expected 1, or train.drop_label above 0",
        "cfg: {cfg_scale: 1.5}",
    ),
    "views of codes that exist": (
        ("released: data/released", "released: data/released\n    views: flip"),
        "codes.released.views: 'views' of codes that exist already; expected no views",
        "    views: flip",
    ),
    "a tokenizer called like its scores": (
        ("  other:\n    dataset: digits", "  vq-reconstruction:\n    dataset: digits"),
        "tokenizers.vq-reconstruction: a name that ends in '-reconstruction'",
        "  vq-reconstruction:",
    ),
    "size and width": (
        ("{size: B,", "{size: B, dim: 768,"),
        "experiments.large.model.dim: both 'size' and 'dim' given; expected one of",
    ),
    "neither size nor width": (
        ("{size: B,", "{"),
        "experiments.large.model: key 'dim' is missing; expected dim, or 'size' alone",
    ),
    "width without depth": (
        ("{size: B,", "{dim: 32, n_head: 2,"),
        "experiments.large.model: key 'n_layer' is missing; expected n_layer, or",
    ),
    "unknown size": (
        ("size: B,", "size: XLL,"),
        "experiments.large.model.size: unknown choice 'XLL'; expected 'XL' (the",
    ),
    "heads without rotary halves": (
        ("{size: B,", "{dim: 32, n_layer: 2, n_head: 3,"),
        "experiments.large.model.n_head: 32 features in 3 heads; expected dim / n_head "
        "a multiple of 4",
    ),
    "n that is no square": (
        ("ar_token_num: 4\n", "ar_token_num: 8\n"),
        "experiments.four.model.ar_token_num: groups of 8 tokens: n must be a square "
        "number; expected one of 1, 4",
    ),
    "n that does not divide the grid": (
        ("ar_token_num: 4\n", "ar_token_num: 9\n"),
        "experiments.four.model.ar_token_num: a 4x4 grid cannot be cut into 3x3 "
        "regions; expected one of 1, 4",
    ),
    "n that is the whole grid": (
        ("ar_token_num: 4\n", "ar_token_num: 16\n"),
        "experiments.four.model.ar_token_num: groups of 16 tokens are the whole 4x4 "
        "grid; expected one of 1, 4",
    ),
    "vocabulary other than the codebook": (
        ("      vocab_size: 64\n", "      vocab_size: 16384\n"),
        "experiments.four.model.vocab_size: 16384 is not the codebook of 'vq'; "
        "expected 64",
    ),
    "grid other than the dataset's": (
        ("      grid: 4\n", "      grid: 6\n"),
        "experiments.four.model.grid: 12 pixels are not the size of dataset 'digits'; "
        "expected 8 pixels",
    ),
    "classes other than the dataset's": (
        ("num_classes: 10\n      ar", "num_classes: 9\n      ar"),
        "experiments.four.model.num_classes: 9 is not the number of classes of "
        "dataset 'digits'; expected 10",
    ),
    "no classes": (
        ("num_classes: 10\n      ar", "num_classes: 0\n      ar"),
        "experiments.four.model.num_classes: the number 0 is out of range; expected",
    ),
    "unknown key of the model": (
        ("      multiple_of: 32\n", "      multiple_off: 32\n"),
        "experiments.four.model.multiple_off: unknown key 'multiple_off'; expected "
        "'multiple_of' (the nearest key)",
    ),
    "unknown tokenizer": (
        ('tokenizer: "vq"', "tokenizer: othr"),
        "experiments.four.tokenizer: unknown tokenizer 'othr'; expected 'other' (the",
    ),
    "unknown system": (
        ('par\n    dataset: digits\n    tokenizer: "vq"', 'pra\n    tokenizer: "vq"'),
        "experiments.four.system: unknown choice 'pra'; expected 'par' (the nearest",
    ),
}

_TRAIN = {
    "unknown codes": (
        ("codes: flips\n", "codes: flip\n"),
        "experiments.four.train.codes: unknown codes 'flip'; expected 'flips' (the",
    ),
    "codes of another tokenizer": (
        ("codes: flips\n", "codes: others\n"),
        "experiments.four.train.codes: codes 'others' are of tokenizer 'other'; "
        "expected codes of 'vq'",
    ),
    "codes of another dataset": (
        ("codes: flips\n", "codes: crops\n"),
        "experiments.four.train.codes: codes 'crops' are of dataset 'photos'; expected "
        "codes of 'digits'",
    ),
    "sharded on one GPU": (
        ("gpus: 2\n      accumulate: 2\n      sharded", "gpus: 1\n      sharded"),
        "experiments.four.train.sharded: parameters sharded over a single GPU; "
        "expected gpus of 2 or more, or false",
        "      sharded: true",
    ),
    "batch that parts do not divide": (
        ("batch: 16\n", "batch: 18\n"),
        "experiments.four.train.batch: a batch of 18 is not divisible by 2 GPUs x 2 "
        "parts; expected a multiple of 4",
    ),
    "batch above the dataset": (
        ("batch: 16\n", "batch: 1800\n"),
        "experiments.four.train.batch: a batch of 1800 is more than the training "
        "images of dataset 'digits'; expected at most 1797",
    ),
    "unknown start": (
        ("start: four", "start: fuor"),
        "experiments.again.train.start: unknown par experiment 'fuor'; expected 'four'",
    ),
    "start of another n": (
        ("start: four", "start: one"),
        "experiments.again.train.start: ar_token_num of 'one' is 1; expected 4, as",
    ),
    "start from itself": (
        ("start: four", "start: again"),
        "experiments.again.train.start: 'again' starts from this experiment; expected",
    ),
    "start in a circle": (
        (
            "codes: flips\n      epochs",
            "codes: flips\n      start: again\n      epochs",
        ),
        "experiments.four.train.start: 'again' starts from this experiment; expected",
        "      start: again",
    ),
    "rate above the peak": (
        ("min_lr: 2e-3", "min_lr: 2e-2"),
        "experiments.four.train.min_lr: 0.02 is above the peak lr 0.002; expected",
    ),
    "steps and epochs": (
        ("epochs: 2\n", "epochs: 2\n      steps: 3\n"),
        "experiments.four.train: both of 'steps' and 'epochs' given; expected exactly",
        "    train:\n      codes: flips",
    ),
    "no rate": (
        ("      lr: 2e-3\n      min_lr: 2e-3\n", ""),
        "experiments.four.train: key 'lr' is missing; expected lr: Peak learning rate",
        "    train:\n      codes: flips",
    ),
    "block that always drops": (
        ("drop_path: 0.1", "drop_path: 1"),
        "experiments.four.train.drop_path: the number 1 is out of range; expected less "
        "than 1",
    ),
    "misspelt dropout": (
        ("drop_path: 0.1", "droppath: 0.1"),
        "experiments.four.train.droppath: unknown key 'droppath'; expected 'drop_path'",
    ),
    "mirrored codes": (
        ("drop_path: 0.1", "flip: true"),
        "experiments.four.train.flip: codes are mirrored when they are made; expected "
        "false; `views` stands",
    ),
    "warm-up of no average": (
        ("drop_path: 0.1", "ema_warmup: true"),
        "experiments.four.train.ema_warmup: a rate of an average that is not made; "
        "expected false, or ema above 0",
    ),
    "what decays": (
        ("drop_path: 0.1", "decay: matrix"),
        "experiments.four.train.decay: unknown choice 'matrix'; expected 'matrices'",
    ),
}

# Even a default, once it is written down, says that guidance was wanted.
_UNGUIDED = {
    "guidance_shape": "constant",
    "guidance_power": 2.0,
    "guidance_first": 0.1,
    "guidance_last": 0.9,
    "cfg_interval": 7,
}
_SAMPLERS = {
    "guidance that never begins": (
        ("guidance_first: 0.1", "guidance_first: 0.9"),
        "experiments.four.samplers.cfg.guidance_first: guidance from 0.9 on never "
        "begins; expected less than 0.9",
    ),
    "shape of guidance": (
        ("guidance_shape: cosine", "guidance_shape: cosin"),
        "experiments.four.samplers.cfg.guidance_shape: unknown choice 'cosin'; "
        "expected 'cosine'",
    ),
    "guidance of 0": (
        ("cfg_scale: 2\n", "cfg_scale: 0\n"),
        "experiments.four.samplers.cfg.cfg_scale: the number 0 is out of range; "
        "expected more than 0",
    ),
    "guidance below 1": (
        ("cfg_scale: 2\n", "cfg_scale: 0.5\n"),
        "experiments.four.samplers.cfg.cfg_scale: a scale of 0.5 guides nothing; "
        "expected 1 (no guidance), or more than 1",
    ),
    "power of no cosine": (
        (
            "guidance_shape: cosine\n",
            "guidance_shape: linear\n        guidance_power: 1.0\n",
        ),
        "experiments.four.samplers.cfg.guidance_power: a power of the shape 'linear'; "
        "expected no guidance_power, or guidance_shape: cosine",
        "        guidance_power",
    ),
    **{
        f"{key} without guidance": (
            ("plain: {}", f"plain: {{{key}: {value}}}"),
            f"experiments.again.samplers.plain.{key}: '{key}' without guidance; "
            f"expected no {key}, or cfg_scale above 1",
        )
        for key, value in _UNGUIDED.items()
    },
    "interval of no guidance": (
        ("cfg: {cfg_scale: 1.5}", "cfg: {cfg_scale: 1, cfg_interval: 9}"),
        "experiments.one.samplers.cfg.cfg_interval: 'cfg_interval' without guidance",
    ),
    "more tokens than the vocabulary": (
        ("top_k: 10", "top_k: 65"),
        "experiments.four.samplers.cfg.top_k: 65 tokens of 64; expected at most 64 "
        "(0: all)",
    ),
    "interval": (
        ("cfg_scale: 2\n", "cfg_interval: -2\n"),
        "experiments.four.samplers.cfg.cfg_interval: the number -2 is out of range; "
        "expected at least -1",
    ),
    "negative temperature": (
        ("temperature: 0.9", "temperature: -0.9"),
        "experiments.four.samplers.cfg.temperature: the number -0.9 is out of range; "
        "expected at least 0",
    ),
    "half a token": (
        ("top_k: 10", "top_k: 1.5"),
        "experiments.four.samplers.cfg.top_k: found the number 1.5; expected a whole",
    ),
    "more than all": (
        ("top_p: 0.5", "top_p: 1.5"),
        "experiments.four.samplers.cfg.top_p: the number 1.5 is out of range; expected "
        "at most 1",
    ),
    "labels": (
        ("labels: iid", "labels: random"),
        "experiments.four.samplers.cfg.sampling.labels: unknown choice 'random'; "
        "expected one of balanced, iid",
    ),
    "no sampler": (
        ("      plain: {}", "      {}"),
        "experiments.again.samplers: found 0 entries; expected at least 1",
        "    samplers:\n      {}",
    ),
    "baseline that it has not": (
        ("baseline: one/cfg", "baseline: one/cfq"),
        "experiments.four.timing.baseline: unknown sampler of 'one' 'cfq'; expected "
        "'cfg'",
    ),
    "sFID without spatial statistics": (
        ("sfid: false", "sfid: true"),
        "experiments.one.evaluation.sfid: reference 'digits' has no spatial "
        "statistics; set it to false: a classifier has no spatial features",
    ),
    "sFID of an Inception network without them": (
        ("reference: flat,", "sfid: true, reference: flat,"),
        "experiments.large.evaluation.sfid: reference 'flat' has no spatial "
        "statistics; set references.flat.spatial to true",
    ),
    "spatial features of a classifier": (
        ("{extractor: classifier,", "{spatial: true, extractor: classifier,"),
        "references.digits.spatial: classifier 'classifier' has no spatial features; "
        "expected false, or an Inception network",
    ),
    "rounding": (
        ("rounding: half_up", "rounding: half-up"),
        "experiments.four.evaluation.protocol.rounding: unknown choice 'half-up'; "
        "expected 'half_up'",
    ),
    "resized to nothing": (
        ("half_up}", "half_up, resize: 0}"),
        "experiments.four.evaluation.protocol.resize: the number 0 is out of range",
    ),
    "resized to another size than is scored": (
        ("half_up}", "half_up, resize: 16}"),
        "experiments.four.evaluation.reference: reference 'digits' is of 8 px images "
        "(dataset 'digits'), the model's are 16 px; expected a reference of the same",
        "      reference: digits\n      n: 100",
    ),
}

PAR_MISTAKES = {**_MODEL, **_TRAIN, **_SAMPLERS, **TOKENIZER_MISTAKES, **CODE_MISTAKES}
PAR_RESERVED = ("tokenizers", "codes", "extract", "train", "par")
