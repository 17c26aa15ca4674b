"""Mistakes in the tokenizers and codes of tests/test_config_errors.py.

They are made in tests/config_errors_par.yaml, and look as in config_mistakes_par.py.
"""

from __future__ import annotations

TOKENIZER_MISTAKES = {
    "channels in groups": (
        ("ch: 32\n", "ch: 48\n"),
        "tokenizers.vq.model.ch: 48 channels in 32 groups of GroupNorm; expected a "
        "multiple of 32",
    ),
    "no levels": (
        ("ch_mult: [1, 2]", "ch_mult: []"),
        "tokenizers.vq.model.ch_mult: found 0 entries; expected at least 1",
    ),
    "level without channels": (
        ("ch_mult: [1, 2]", "ch_mult: [1, 0]"),
        "tokenizers.vq.model.ch_mult[1]: the number 0 is out of range; expected at",
    ),
    "levels that do not halve the images": (
        ("ch_mult: [1, 2]", "ch_mult: [1, 1, 1, 1, 1]"),
        "tokenizers.vq.dataset: 8 pixels are not divisible by 16; expected a dataset",
        "    dataset: digits\n    model:\n      ch: 32",
    ),
    "codebook of one entry": (
        ("codebook_size: 64\n", "codebook_size: 1\n"),
        "tokenizers.vq.model.codebook_size: the number 1 is out of range; expected at "
        "least 2",
    ),
    "codebook beyond uint16": (
        ("codebook_size: 64\n", "codebook_size: 70000\n"),
        "tokenizers.vq.model.codebook_size: the number 70000 is out of range; expected "
        "at most 65536",
    ),
    "unknown key of a tokenizer's training": (
        ("entropy_ratio: 0.1", "entropy_ration: 0.1"),
        "tokenizers.vq.train.entropy_ration: unknown key 'entropy_ration'; expected",
    ),
    "tokenizer without weights": (
        ("    checkpoint: ./vq.pt\n", ""),
        "tokenizers.other: neither of 'checkpoint' and 'train' given; expected exactly",
        "  other:\n",
    ),
    "tokenizer's missing file": (
        ("checkpoint: ./vq.pt", "checkpoint: ./vq.pth"),
        "tokenizers.other.checkpoint: file ./vq.pth not found",
    ),
    "tokenizer's batch above the dataset": (
        (
            "batch: 32, lr: 1e-3, entropy",
            "batch: 1700, holdout: 0.1, lr: 1e-3, entropy",
        ),
        "tokenizers.vq.train.batch: a batch of 1700 is more than the training images "
        "of dataset 'digits'; expected at most 1617",
    ),
    "tokenizer's batch on two GPUs": (
        ("batch: 32, lr: 1e-3, entropy", "batch: 33, gpus: 2, lr: 1e-3, entropy"),
        "tokenizers.vq.train.batch: a batch of 33 is not divisible by 2 GPUs x 1 parts",
    ),
    "tokenizer's dropped labels": (
        ("entropy_ratio: 0.1", "drop_label: 0.1"),
        "tokenizers.vq.train.drop_label: a tokenizer knows no classes; expected 0",
    ),
    "tokenizer of an unknown dataset": (
        (
            "    dataset: digits\n    model:\n      ch: 32",
            "    dataset: digit\n    model:",
        ),
        "tokenizers.vq.dataset: unknown dataset 'digit'; expected 'digits' (the",
    ),
    "unknown reference of reconstructions": (
        ("      reference: digits\n      n: 50", "      reference: digit\n      n: 50"),
        "tokenizers.vq.reconstruction.reference: unknown reference 'digit'; expected",
    ),
    "reconstructions of another size": (
        (
            "    dataset: digits\n    model: {ch: 64",
            "    dataset: colours\n    reconstruction: {reference: digits}\n"
            "    model: {ch: 64",
        ),
        "tokenizers.other.reconstruction.reference: the reference is of 8 px images; "
        "expected a reference of 16 px images",
        "    reconstruction: {reference",
    ),
}

CODE_MISTAKES = {
    "codes of nothing": (
        ("    dataset: digits\n    shard_size", "    shard_size"),
        "codes.flips: neither source given; expected 'dataset' or 'released'",
        "  flips:\n",
    ),
    "codes of two sources": (
        ("    shard_size: 900", "    released: data/codes\n    count: 9"),
        "codes.flips: both 'dataset' and 'released' given; expected 'dataset' or",
        "  flips:\n",
    ),
    "released without count": (
        ("    count: 40\n", ""),
        "codes.released: key 'count' is missing; expected the number of images in the "
        "released folder",
        "  released:\n",
    ),
    "count beside a dataset": (
        ("    shard_size: 900", "    count: 900"),
        "codes.flips.count: the number of images is the dataset's; expected no count",
    ),
    "dataset without count": (
        ("    count: 24\n", ""),
        "codes.crops.dataset: dataset 'photos' does not say how many images it has; "
        "expected datasets.photos.count",
        "    dataset: photos\n    views",
    ),
    "ten crops of a packaged dataset": (
        ("    shard_size: 900", "    views: ten-crop"),
        "codes.flips.views: dataset 'digits' has images of 8 px only; expected plain "
        "or flip; ten-crop needs a folder",
    ),
    "crops of the centre": (
        ("    shard_size: 900", "    views: plain\n    crop_ranges: [1.1]"),
        "codes.flips.crop_ranges: 'crop_ranges' of the views 'plain'; expected no "
        "crop_ranges, or views: ten-crop",
        "    crop_ranges: [1.1]",
    ),
    "crops of the views by default": (
        ("    shard_size: 900", "    crop_ranges: [1.1]"),
        "codes.flips.crop_ranges: 'crop_ranges' of the views 'flip'; expected no",
    ),
    "unknown views": (
        ("views: ten-crop", "views: ten-crops"),
        "codes.crops.views: unknown choice 'ten-crops'; expected 'ten-crop' (the",
    ),
    "crop below a view": (
        ("crop_ranges: [1.25, 1.1]", "crop_ranges: [1.25, 0.9]"),
        "codes.crops.crop_ranges[1]: the number 0.9 is out of range; expected at least",
    ),
    "ten crops of no square": (
        ("crop_ranges: [1.25, 1.1]", "crop_ranges: []"),
        "codes.crops.crop_ranges: found 0 entries; expected at least 1",
    ),
    "codes of an unknown tokenizer": (
        (
            'tokenizer: other\n    dataset: "digits"',
            "tokenizer: ohter\n    dataset: digits",
        ),
        "codes.others.tokenizer: unknown tokenizer 'ohter'; expected 'other' (the",
    ),
    "codes of an unknown dataset": (
        ('    dataset: "digits"\n  released', "    dataset: digitz\n  released"),
        "codes.others.dataset: unknown dataset 'digitz'; expected 'digits' (the",
    ),
    "codes of images that do not halve": (
        ("    size: 8\n    count: 24\n", "    size: 7\n    count: 24\n"),
        "codes.crops.dataset: 7 pixels are not divisible by 2; expected a dataset",
        "    dataset: photos\n    views",
    ),
    "codes with an underscore": (
        ("  released:\n", "  released_codes:\n"),
        "codes.released_codes: found the text 'released_codes'; expected a name of",
        "  released_codes:\n",
    ),
}
