"""Each site of a source is a client: its folders or rows, its classes, and what is refused."""

from __future__ import annotations

import re
import shutil
import unicodedata

import numpy as np
import pytest
from small_images import MakeFolder, MakeParquet, load

from feddtl.config import DataConfig, Experiment, ServerConfig
from feddtl.data.federated import FederatedData, load_federated_data
from feddtl.data.own_images import load_own_images
from feddtl.errors import ConfigError, DataError, FeddtlError
from feddtl.experiment import with_client_count

SPLITS = [f"north/{split}/{name}/{n}.png" for split in ("train", "test") for name in ("ant", "bee") for n in range(3)]
PLAIN = [f"south/{name}/{n}.png" for name in ("bee", "Cat") for n in range(5)]


def sites(source: object, seed: int = 0, held_back: float = 0.0, **settings: object) -> FederatedData:
    """The sites of a source as clients."""
    config = DataConfig(source=str(source), partition="sites", **{"regime": "full", **settings})
    return load_federated_data(config, seed, held_back=held_back)


def counts(data: FederatedData) -> list[list[int]]:
    return data.partition.counts(data.train.labels, len(data.base_names)).tolist()


def read(data: FederatedData, client: int) -> list[tuple[str, int]]:
    """Name and grey value of each training image of a client."""
    table = data.train.select(data.partition.train[client])
    return [(data.base_names[table.labels[i]], table.read(i).getpixel((0, 0))[0]) for i in range(len(table))]


def test_one_client_per_site_with_the_classes_that_it_has(make_folder: MakeFolder) -> None:
    """North has a test split; of the five images of each class of south one is held out."""
    data = sites(make_folder(*SPLITS, *PLAIN))
    assert data.sites == ("north", "south")
    assert (data.base_names, data.novel_names) == (("Cat", "ant", "bee"), ())
    assert counts(data) == [[0, 3, 3], [4, 0, 4]]
    assert [len(part) for part in data.partition.test] == [6, 2]
    assert data.partition.shares[:, 0].tolist() == [[0, 1, 3 / 7], [1, 0, 4 / 7]]
    assert [note for note in data.notes if note.startswith("Site 'south' has no test split: 2 of its 10")]
    assert "Classes of a single site: Cat ('south'), ant ('north')." in data.notes


@pytest.mark.parametrize("held_back", [0.0, 0.5])
def test_each_site_reads_what_its_client_would_read(make_folder: MakeFolder, held_back: float) -> None:
    """The same images as those of the folder given to `feddtl client --data`, also of a few-shot choice."""
    root = make_folder(*SPLITS, *PLAIN)
    lists = {"classes": "cat,bee", "novel_classes": "ant", "regime": "few-shot", "shots": 2}
    data = sites(root, seed=3, held_back=held_back, **lists)
    for client, name in enumerate(data.sites):
        own = load_own_images(DataConfig(source="clients", **lists), str(root / name), 3, held_back=held_back)  # type: ignore[arg-type]
        for table, mine, parts in (
            (data.train, own.train, data.partition.train),
            (data.test_base, own.test_base, data.partition.test),
            (data.test_novel, own.test_novel, data.partition.novel),
        ):
            here = table.select(parts[client])
            assert here.labels.tolist() == mine.labels.tolist()
            assert [here.digest(i) for i in range(len(here))] == [mine.digest(i) for i in range(len(mine))]


def test_rows_of_a_table_by_site(make_parquet: MakeParquet) -> None:
    """Text labels, whole numbers as sites in the order of their size, and a test split that site 10 does not have."""
    train = make_parquet("own/train-0.parquet", ["bee", "ant", "cat", "ant", "cat", "cat"], domains=list("911111"))
    make_parquet("own/test-0.parquet", ["ant", "bee"], domains=["9", "9"])
    data = sites(train.parent, site_column="domain")
    assert data.sites == ("1", "9")
    assert read(data, 1) == [("bee", 10)]
    assert set(read(data, 0)) <= {("ant", 11), ("cat", 12), ("ant", 13), ("cat", 14), ("cat", 15)}
    assert [len(part) for part in data.partition.test] == [2, 2]
    assert [note for note in data.notes if note.startswith("Site '1' has no test split")]


def test_each_site_of_a_table_reads_what_a_file_of_its_own_would_hold(make_parquet: MakeParquet) -> None:
    labels, places = [0, 1, 2] * 6, ["north"] * 10 + ["south"] * 8
    whole = make_parquet("all.parquet", labels, names=["gnu", "ant", "bee"], domains=places)
    data = sites(whole, site_column="domain", domain_column="", classes="ant,bee,gnu")
    own = make_parquet("south.parquet", labels[10:], names=["gnu", "ant", "bee"])
    config = DataConfig(source="clients", classes="ant,bee,gnu", regime="full")
    alone = load_own_images(config, str(own), 0)
    here = data.train.select(data.partition.train[1])
    assert here.labels.tolist() == alone.train.labels.tolist()
    assert (here.rows - here.rows.min()).tolist() == (alone.train.rows - alone.train.rows.min()).tolist()


def test_a_site_may_have_files_of_its_own(make_folder: MakeFolder, make_parquet: MakeParquet) -> None:
    root = make_folder(*PLAIN)
    shutil.move(make_parquet("x/train-0.parquet", ["ant", "bee", "ant", "bee"]).parent, root / "north")
    assert [sum(row) for row in counts(sites(root))] == [2, 8]


@pytest.mark.parametrize("clients", [1, 3, 5])
def test_another_number_of_clients_is_refused(make_folder: MakeFolder, clients: int) -> None:
    root = make_folder(*SPLITS, *PLAIN)
    with pytest.raises(ConfigError, match=rf"data.clients = {clients}, but .* has 2 sites: 'north', 'south'") as caught:
        sites(root, clients=clients)
    assert caught.value.hint.startswith("Set data.clients = 2, or leave it out")
    experiment = Experiment(data=DataConfig(source=str(root), partition="sites"))
    counted = with_client_count(experiment).data.clients
    assert (experiment.data.client_count, counted, sites(root, clients=2).sites[0]) == (0, 2, "north")
    assert with_client_count(Experiment()).data.clients == 5


def test_what_the_number_of_clients_allows_is_known_once_the_sites_are_counted() -> None:
    experiment = {"data": DataConfig(source="x", partition="sites"), "server": ServerConfig(aggregator="trimmed-mean")}
    assert Experiment(**experiment).in_round == 0  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="drops nobody"):
        Experiment(**{**experiment, "data": DataConfig(source="x", partition="sites", clients=2)})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("files", "words", "hint"),
    [
        (["train/ant/0.png", "test/ant/1.png"], "is the folder of a split and not a site", "Move the images to SITE/"),
        (["ant/0.png", "bee/0.png"], "ant contains images directly, so it is a folder of one class", "'non-iid'"),
        (
            ["north/train/ant/0.png", "north/train/bee/0.png", "south/test/ant/1.png"],
            "Site 'south'",
            "Add the training",
        ),
        (["North/ant/0.png", "north/bee/0.png"], "differ only in case, blanks or Unicode form: 'North' and 'nor", "Re"),
        (["n\x1b[1m/ant/0.png", "south/bee/0.png"], r"name of the site 'n\\x1b\[1m' .* cannot be printed", "Rename"),
        (["0.png"], "has no folders, so it has no sites", "ROOT/SITE/CLASS"),
        (["north/ant/0.png", "south/ant/0.png"], "have a single class: ant", "two classes"),
    ],
)
def test_what_is_no_site_is_refused(make_folder: MakeFolder, files: list[str], words: str, hint: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        sites(make_folder(*files))
    assert hint in caught.value.hint


def test_names_in_two_unicode_forms_are_one_site(make_folder: MakeFolder) -> None:
    names = [unicodedata.normalize(form, "Zürich") for form in ("NFC", "NFD")]
    decomposed = make_folder(f"{names[1]}/ant/0.png", "b/bee/0.png", name="one")
    assert sites(decomposed).sites == (names[0], "b")
    with pytest.raises(DataError, match=r"Unicode form: 'Zu\\u0308rich' and 'Z\\xfcrich'"):
        sites(make_folder(*(f"{name}/ant/0.png" for name in names), "b/bee/0.png", name="two"))


def test_an_empty_site_is_named(make_folder: MakeFolder) -> None:
    root = make_folder(*SPLITS)
    (root / "west" / "ant").mkdir(parents=True)
    with pytest.raises(DataError, match=r"Site 'west': The class folders of .*west contain no images"):
        sites(root)


def test_a_class_that_the_lists_do_not_name_is_named_with_its_site(make_folder: MakeFolder) -> None:
    """All of them at once, and why they are not only noted; the remedy of the hint works."""
    root = make_folder(*SPLITS, *PLAIN, "west/bee/0.png", "west/dog/0.png")
    found = r"do not name: Cat \('south'\), dog \('west'\)\. At a client or a site this is an error"
    with pytest.raises(DataError, match=found) as caught:
        sites(root, classes="ant,bee")
    assert "set data.novel_classes = 'others'" in caught.value.hint
    assert sites(root, classes="ant,bee", novel_classes="others").novel_names == ("Cat", "dog")


def test_a_site_with_novel_classes_alone_is_refused_with_what_can_be_done(make_folder: MakeFolder) -> None:
    """In the same words as over Flower: it has nothing to train on, and can be scored afterwards."""
    root = make_folder(*SPLITS, *PLAIN)
    words = "no training images of a base class, and nobody trains on the 6 of novel classes"
    with pytest.raises(DataError, match=f"Site 'north': it has {words}") as caught:
        sites(make_folder(*SPLITS, *PLAIN, "south/dog/0.png", name="more"), novel_classes="ant,bee")
    assert "feddtl evaluate RUN --data.source FOLDER" in caught.value.hint
    config = DataConfig(source="clients", classes="Cat,cow", novel_classes="ant,bee", regime="full")
    with pytest.raises(DataError, match=f"north has {words}"):
        load_own_images(config, str(root / "north"), 0)


def test_sites_that_spell_a_class_differently(make_folder: MakeFolder) -> None:
    data = sites(make_folder(*SPLITS, *(file.replace("bee", "BEE") for file in PLAIN)))
    assert data.base_names == ("Cat", "ant", "bee")
    assert "One class, 'bee', has several spellings: 'bee' ('north'), 'BEE' ('south')." in data.notes


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"source": "shapes", "partition": "sites"}, ConfigError, "data.partition = 'sites' cannot be set with"),
        ({"source": "x", "site_column": "ward"}, ConfigError, "data.site_column = 'ward' cannot be set"),
        (
            {"source": "cifar10", "partition": "sites"},
            DataError,
            "'cifar10', a data set of the catalogue, has no sites",
        ),
    ],
)
def test_sources_without_sites(settings: dict[str, str], error: type[FeddtlError], words: str) -> None:
    with pytest.raises(error, match=words):
        load_federated_data(DataConfig(**settings), 0)  # type: ignore[arg-type]


def test_faults_of_a_table_of_sites(make_parquet: MakeParquet, make_folder: MakeFolder) -> None:
    path = make_parquet("a.parquet", ["ant", "bee"], domains=["north", " "])
    with pytest.raises(DataError, match="has no column 'site', which would name the site of each row"):
        sites(path)
    with pytest.raises(DataError, match=r"Row 1 of .* names no site in the column 'domain'"):
        sites(path, site_column="domain")
    with pytest.raises(DataError, match=r"column 'image' of .* does not name sites"):
        sites(path, site_column="image")
    with pytest.raises(DataError, match="has a folder for each site, and no column 'ward'"):
        sites(make_folder(*SPLITS), site_column="ward")
    shutil.copy(path, make_folder(*SPLITS) / "a.parquet")
    with pytest.raises(DataError, match=r"has both parquet files .* and folders"):
        sites(make_folder(*SPLITS))


def test_a_damaged_row_is_named_with_its_site_and_its_place_in_the_file(make_parquet: MakeParquet) -> None:
    path = make_parquet("a.parquet", ["ant", "bee", "ant", "bee"], domains=list("nnss"))
    import datasets

    table = datasets.Dataset.from_parquet(str(path)).cast_column("image", datasets.Image(decode=False))
    rows = [row if n != 3 else {**row, "image": {"bytes": b"no image", "path": None}} for n, row in enumerate(table)]
    datasets.Dataset.from_list(rows, features=table.features).to_parquet(path)
    data = sites(path, site_column="domain")
    tables = [(data.train, index) for index in range(len(data.train))]
    tables += [(data.test_base, index) for index in range(len(data.test_base))]
    failed = []
    for part, index in tables:
        try:
            part.read(index)
        except DataError as error:
            failed.append(error.message)
    assert len(failed) == 1
    assert re.search(r"row 3 of .*a.parquet \(train\), site 's'", failed[0])


def test_labels_and_parts_cover_each_image_once(make_folder: MakeFolder) -> None:
    data = sites(make_folder(*SPLITS, *PLAIN), classes="bee,cat", novel_classes="ant")
    for parts, table in (
        (data.partition.train, data.train),
        (data.partition.test, data.test_base),
        (data.partition.novel, data.test_novel),
    ):
        assert np.concatenate(parts).tolist() == list(range(len(table)))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["north/train/winter/ant/0.png", "south/bee/0.png"], r"'north' has splits of its own, such as .*north/train"),
        (["a/val-1/ant/0.png", "a/x/bee/0.png", "b/test/bee/0.png"], "'a', 'b' have splits of their own, such as"),
    ],
)
def test_sites_that_nobody_called_sites_are_not_taken_apart(
    make_folder: MakeFolder, files: list[str], words: str
) -> None:
    """The advice for a split below a class, to move the images, would destroy them."""
    root = make_folder(*files)
    with pytest.raises(DataError, match=f"looks like a folder of sites: {words}") as caught:
        load_federated_data(DataConfig(source=str(root)), 0)
    assert caught.value.hint.startswith("If each is a site, add --data.partition sites.")
    with pytest.raises(DataError, match="looks like a folder of sites") as caught:
        load_own_images(DataConfig(source="clients", classes="ant,bee"), str(root), 0)
    assert caught.value.hint.startswith("Give each client the folder of its own site, such as ")


def test_a_folder_around_a_data_set_is_no_folder_of_sites_alone(make_folder: MakeFolder) -> None:
    root = make_folder(*(file.replace("north", "photos") for file in SPLITS))
    with pytest.raises(DataError, match="'photos' has splits of its own") as caught:
        load_federated_data(DataConfig(source=str(root)), 0)
    assert caught.value.hint.startswith(
        f"Pass {root / 'photos'}. If the folders are sites, with a client for each, add"
    )


def test_domains_that_may_be_sites_are_noted(make_folder: MakeFolder) -> None:
    """Unless the user speaks of domains; with splits above them, the note says where they belong."""
    cells = [f"{place}/{name}/{n}.png" for place in ("north", "south") for name in ("ant", "bee") for n in range(4)]

    def said(root: object, **settings: object) -> list[str]:
        config = DataConfig(source=str(root), **{"clients": 2, "partition": "iid", **settings})  # type: ignore[arg-type]
        return [note for note in load_federated_data(config, 0).notes if "--data.partition sites" in note]

    root = make_folder(*cells, name="plain")
    [note] = said(root)
    assert note.startswith("The folders north, south are read as domains of one data set. If each is a site")
    assert not said(root, partition="domain") + said(root, domains="north,south")
    above = make_folder(*(f"{split}/{cell}" for split in ("train", "test") for cell in cells), name="above")
    assert said(above)[0].endswith("with its splits inside: ROOT/SITE/train/CLASS/*.jpg.")
    [note] = said(
        make_folder(*(file.replace("south/bee", "south/cat").replace("south/ant", "south/dog") for file in cells))
    )
    assert note.startswith("The folders are read as DOMAIN/CLASS")


def test_a_column_of_sites_that_is_not_used_is_noted(make_parquet: MakeParquet, make_folder: MakeFolder) -> None:
    import datasets

    path = make_parquet("a.parquet", ["ant", "bee"] * 4, domains=list("nnnnssss"))
    table = datasets.Dataset.from_parquet(str(path))
    for column, flag in (("site", ""), ("Site", " --data.site-column Site")):
        table.rename_column("domain", column).to_parquet(path)
        [note] = [note for note in load(path).notes if "is not used" in note]
        assert f"column '{column}' of {path} has 2 different values" in note
        assert note.endswith(f"add --data.partition sites{flag}.")
    table.map(lambda row: {"site": "only"}).to_parquet(path)
    assert not any("sites" in note for note in load(path).notes)
    root = make_folder(*PLAIN)
    shutil.move(make_parquet("x/train-0.parquet", ["ant", "bee", "ant", "bee"]).parent, root / "north")
    [note] = [note for note in load(root).notes if "not parquet files are not used" in note]
    assert note.endswith("add --data.partition sites.")
    shutil.copytree(root / "north", root / "east")
    with pytest.raises(DataError, match="has parquet files in several subfolders") as caught:
        load(root)
    assert caught.value.hint.endswith("add --data.partition sites.")
