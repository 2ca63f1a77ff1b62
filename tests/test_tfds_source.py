"""Data sets in TFDS's own format on disk, and the real WMT14 builder fed with small archives of the true names and layout."""

import dataclasses
import io
import shutil
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from transformer_jax.config import DataConfig
from transformer_jax.data import tfds_source
from transformer_jax.data.corpus import Pairs, read_pairs
from transformer_jax.data.sources import fetch, read_sources, text_fingerprint
from transformer_jax.errors import UserError

tfds = pytest.importorskip("tensorflow_datasets")
pytestmark = pytest.mark.filterwarnings("default")  # TFDS's own


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """30 training and 5 other pairs, one of them with entities and a line break, in ArrayRecord."""

    class Tiny(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.Translation(languages=("de", "en")))

        def _split_generators(self, _):
            return {"train": self._generate_examples(30), "validation": self._generate_examples(5)}

        def _generate_examples(self, count):
            for i in range(count):
                yield i, {"de": f"Hund {i} &quot;\n&amp;lt;", "en": f"dog {i} & &copy x\u2028y"}

    folder = tmp_path_factory.mktemp("tfds")
    builder = Tiny(data_dir=str(folder), file_format="array_record")
    builder.download_and_prepare()
    return Path(builder.data_dir)


def numbers(lines: list[str]) -> list[int]:
    return [int(line.split()[1]) for line in lines]


def test_a_prepared_data_set_is_read_in_both_directions(tiny):
    pairs = read_pairs(f"tfds:{tiny}", "en", "de")
    assert sorted(numbers(pairs.source)) == list(range(30)) and numbers(pairs.source) == numbers(pairs.target)
    assert pairs.source[0] == f"dog {numbers(pairs.source)[0]} & &copy x\u2028y"  # no entities of the files
    assert pairs.target[0] == f'Hund {numbers(pairs.source)[0]} " &lt;'
    assert read_pairs(f"tfds:{tiny}", "de", "en") == Pairs(pairs.target, pairs.source)
    swapped, _ = read_sources(DataConfig(train=f"tfds:{tiny} (swap=true)"))
    assert Pairs(*map(list, swapped)) == Pairs(pairs.target, pairs.source)


@pytest.mark.parametrize(("split", "count"), [("validation", 5), ("train[:10]+validation[50%:]", 13), ("all", 35)])
def test_any_split_expression(split, count, tiny):
    assert len(read_pairs(f"tfds:{tiny}#{split}", "en", "de").source) == count


def test_as_one_of_several_sources(tiny):
    data = DataConfig(train=f"tfds:{tiny}#train[:10] * 2 (tag=<t>), demo:dev", dev=f"tfds:{tiny}#validation")
    fetch([f"tfds:{tiny}#train[:10]", data.dev])
    pairs, parts = read_sources(data)
    assert parts[0] == (10, 2.0) and pairs.source[0].startswith("<t> dog ")
    data.train = f"tfds:{tiny}"
    before = text_fingerprint(data)
    assert before and before == text_fingerprint(data) != text_fingerprint(
        dataclasses.replace(data, train=f"tfds:{tiny}#validation")
    )
    next(tiny.glob("*train*")).touch()
    assert text_fingerprint(data) != before  # and the text is read again


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "wmt14_translat/de-en",
            r"tfds:wmt14_translat/de-en: TFDS has no data set 'wmt14_translat'; did you mean .*wmt14_translate",
        ),
        ("wmt14_translate/de-enn", r"wmt14_translate has no part 'de-enn'; name one, such as wmt14_translate/de-en"),
        ("wmt14_translate", r"has no part ''; name one, such as .*wmt14_translate/de-en"),
        ("{tiny}#dev", r"#dev: no such split; there are train, validation"),
        ("{tiny}#train[", r"no such split"),
        ("{tiny}/..", r"no prepared data set"),
    ],
)
def test_what_is_not_there_is_named(name, message, tiny):
    with pytest.raises(UserError, match=message) as caught:
        read_pairs("tfds:" + name.format(tiny=tiny), "en", "de")
    assert "\n" not in str(caught.value)


def test_a_side_that_is_missing(tiny):
    with pytest.raises(UserError, match="has no side 'fr', only de, en"):
        read_pairs(f"tfds:{tiny}", "en", "fr")


def test_without_tensorflow_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    monkeypatch.setattr(tfds_source.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"is not in .* yet; downloading \(1\.. GB\) .* pip install 'transformer_jax\[wmt\]'"):
        read_pairs("tfds:wmt14_translate/de-en", "en", "de")


def test_without_the_packages_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match=r"pip install 'transformer_jax\[wmt\]'"):
        read_pairs("tfds:wmt14_translate/de-en", "en", "de")


# The real builder

ARCHIVES = {
    "training-parallel-europarl-v7.tgz": {
        "training/europarl-v7.de-en.de": "Europa eins\nEuropa zwei\n",
        "training/europarl-v7.de-en.en": "Europe one\nEurope two\n",
    },
    "training-parallel-commoncrawl.tgz": {
        "commoncrawl.de-en.de": "Netz &amp; Seite\n",
        "commoncrawl.de-en.en": "web &amp; page\n",
    },
    "training-parallel-nc-v9.tgz": {
        "training/news-commentary-v9.de-en.de": "Neues\n",
        "training/news-commentary-v9.de-en.en": "news\n",
    },
    "dev.tgz": {
        "dev/newstest2013.de": "Pr\u00fcfung 13\n",
        "dev/newstest2013.en": "test 13\n",
        "dev/newstest2014-deen-src.de.sgm": '<doc>\n<seg id="1">&quot;Pr\u00fcfung&quot; 14</seg>\n</doc>\n',
        "dev/newstest2014-deen-ref.en.sgm": '<doc>\n<seg id="1">&quot;test&quot; 14</seg>\n</doc>\n',
    },
}


@pytest.fixture
def wmt14(tmp_path, monkeypatch):
    """Downloads come from small archives; the checksums of the true ones do not hold for them."""
    pytest.importorskip("tensorflow", reason="preparing WMT14 needs TensorFlow")
    from tensorflow_datasets.core.download import checksums, downloader

    for name, files in ARCHIVES.items():
        with tarfile.open(tmp_path / name, "w:gz") as archive:
            for path, text in files.items():
                entry = tarfile.TarInfo(path)
                entry.size = len(text.encode())
                archive.addfile(entry, io.BytesIO(text.encode()))

    def download(self, url, destination_path, verify=True):
        path = Path(shutil.copy(tmp_path / url.rpartition("/")[2], destination_path))
        return downloader.DownloadResult(path=type(destination_path)(path), url_info=checksums.compute_url_info(path))

    monkeypatch.setattr(downloader._Downloader, "_sync_download", download)
    monkeypatch.setattr(tfds.core.DatasetBuilder, "url_infos", {})
    monkeypatch.setattr(checksums, "get_all_url_infos", dict)
    monkeypatch.setattr(tfds_source, "_check_network", lambda *_: None)
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def test_wmt14_is_prepared_on_first_use_and_then_read(wmt14, caplog):
    caplog.set_level("INFO")
    pairs = read_pairs("tfds:wmt14_translate/de-en", "en", "de")
    assert sorted(zip(*pairs, strict=True)) == [
        ("Europe one", "Europa eins"),
        ("Europe two", "Europa zwei"),
        ("news", "Neues"),
        ("web & page", "Netz & Seite"),
    ]
    assert "downloading" in caplog.text and str(wmt14) in caplog.text
    shutil.rmtree(wmt14 / "downloads")
    caplog.clear()
    assert read_pairs("tfds:wmt14_translate/de-en#validation", "de", "en") == Pairs(["Pr\u00fcfung 13"], ["test 13"])
    assert read_pairs("tfds:wmt14_translate/de-en#test", "en", "de") == Pairs(['"test" 14'], ['"Pr\u00fcfung" 14'])
    assert "downloading" not in caplog.text


def test_the_size_of_wmt14s_download_is_known(tmp_path):
    builder = tfds.builder("wmt14_translate/de-en", data_dir=str(tmp_path))
    urls, size = tfds_source._downloads(builder)
    assert {url.rpartition("/")[2] for url in urls} == set(ARCHIVES)
    assert 1.5e9 < size < 2e9


def test_a_disk_that_is_too_small_is_found_out_before(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_source.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    monkeypatch.setattr(tfds_source.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    with pytest.raises(UserError, match=r"needs some 7 GB in .*, which has 1 GB free"):
        read_pairs("tfds:wmt14_translate/de-en", "en", "de")


def test_without_a_network_it_says_so_at_once(tmp_path, monkeypatch):
    def unreachable(address, timeout):
        assert address == ("www.statmt.org", 80) and timeout <= 10
        raise OSError("no route to host")

    monkeypatch.setattr(tfds_source.importlib.util, "find_spec", lambda name: True)
    for proxy in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    monkeypatch.setattr(tfds_source.socket, "create_connection", unreachable)
    with pytest.raises(UserError, match=r"www.statmt.org cannot be reached \(no route to host\); connect and try again"):
        read_pairs("tfds:wmt14_translate/de-en", "en", "de")
