"""Which folders are splits, and what looks like a split and is refused."""

from __future__ import annotations

import pytest
from small_images import SPLITS, load, per_class

from feddtl.data.split_names import WORDS, is_bare_split, resembled_split, split_of
from feddtl.errors import DataError

ACCEPTED = [word for split, words in WORDS.items() if split != "train" for word in words]


def test_the_words_are_those_of_the_datasets_library():
    from datasets.data_files import SPLIT_KEYWORDS

    assert {str(split): sorted(words) for split, words in SPLIT_KEYWORDS.items()} == {
        split: sorted(words) for split, words in WORDS.items()
    }


@pytest.mark.parametrize("word", [*ACCEPTED, "TEST", "Testing", "test-2", "my_test", "photos.val", "2024 test"])
def test_every_word_divides_as_in_the_datasets_library(make_folder, word):
    files = [file.replace("test/", f"{word}/").replace("train/", "Training/") for file in SPLITS]
    assert per_class(load(make_folder(*files))) == ([2, 1], [1, 1])


LIKE_SPLITS = {
    **dict.fromkeys(("tset", "testset", "TestImages", "tesst", "tests", "holdout"), "test"),
    **dict.fromkeys(("trian", "traning", "imagesTrain", "trn"), "train"),
    **dict.fromkeys(("vaildation", "valset"), "validation"),
}


@pytest.mark.parametrize(("name", "split"), LIKE_SPLITS.items())
def test_a_name_like_that_of_a_split_is_refused(make_folder, name, split):
    """As the folder of a domain, whose images would be trained on, and beside a training folder."""
    assert split_of(name) is None
    domains = [f"{above}/{c}/{i}.png" for above in (name, "photo") for c in ("cat", "dog") for i in range(2)]
    beside = [f"{above}/{c}/{i}.png" for above in (name, "train") for c in ("cat", "dog") for i in range(2)]
    for files in (domains, beside):
        with pytest.raises(DataError, match=f"'{name}' in .* looks like a {split} split") as refused:
            load(make_folder(*files, name=files[1].split("/")[0] + files[-1].split("/")[0]))
        assert f"Rename it to '{split}'" in refused.value.hint


@pytest.mark.parametrize(
    "name", ["rain", "west", "text", "terrain", "brain", "strain", "vale", "tent", "devon", "site 3"]
)
def test_other_words_are_domains(name):
    assert split_of(name) is None
    assert resembled_split(name) is None
    assert not is_bare_split(name)


def both(*names):
    return [f"{name}/{i}.png" for name in names for i in range(2)]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (both("cat", "dog", "test"), "class folder 'test' in .* looks like a split"),
        (both("cat", "dog", "Validation-2"), "class folder 'Validation-2'"),
        (both("train", "test"), "class folder 'test'"),
        (both("train", "training"), "class folder 'train'"),
        (both("cat/train", "cat/test", "dog/train", "dog/test"), "class folder 'test'"),
        (both("cat/Training", "cat/valset", "dog/Training"), "class folder 'valset'"),
        (both("cat_train", "cat_test", "dog_train", "dog_test"), "'cat_test' and 'cat_train' .* two splits"),
        (both("trainA", "trainB", "testA", "testB"), "'testA' and 'trainA' .* two splits"),
        (both("a(train)", "a(test)", "b(train)", "b(test)"), "two splits"),
        (both("tr/cat", "tr/dog", "te/cat", "te/dog"), "te, tr in .* look like splits"),
        (both("x_tr/cat", "x_tr/dog", "x_va/cat", "x_va/dog"), "x_tr, x_va in .* look like splits"),
        (both("cat", "cat test", "dog"), "'cat' and 'cat test'"),
        (both("photo/cat", "photo/dog", "test/cat", "test/dog"), "a folder 'test' but no folder 'train'"),
        (both("train/cat", "train/dog", "test"), "test looks like a split, but contains 2 images directly"),
        (both("train/steam", "train/diesel", "car"), "beside it .*car with images"),
        (both("train/cat", "train/dog", "test/cat", "testing/cat"), "several test splits"),
        (both("cat", "test/dog"), "a folder 'test' but no folder 'train'"),
        (both("train_1/cat", "train_2/cat"), "several train splits: train_1, train_2"),
        (both("train_test/cat", "x/dog"), "'train_test' is that of two splits"),
        (both("train/val/cat", "train/photo/cat", "train/photo/dog"), "'val' .* in the place of a domain"),
        (both("a/train/cat", "a/test/cat", "b/train/dog"), "looks like a folder of sites: 'a', 'b' have splits"),
        (both("data/train/cat", "data/test/dog"), "looks like a folder of sites: 'data' has splits"),
        ([f"{c}/{s}_{i}.png" for c in ("cat", "dog") for s in ("train", "test") for i in range(2)], "4 images whose"),
        (["cat/1.png", "cat/2.png", "cat/TestImage3.png", "dog/1.png"], "1 image whose file names"),
        (["cat/1.png", "cat/2 val.png", "dog/1.png"], "1 image whose file names"),
    ],
)  # fmt: skip
def test_what_looks_like_a_split_is_refused(make_folder, files, message):
    with pytest.raises(DataError, match=message) as refused:
        load(make_folder(*files))
    assert refused.value.hint
