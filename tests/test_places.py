"""Credentials in a URI: refused wherever data may lie, and shown nowhere."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from raydml import cli
from raydml.config import ConfigError, parse
from raydml.config.places import refused_credentials, resolved_storage
from raydml.data.argument import located
from raydml.data.tables import list_csv, list_parquet
from tests.image_tables import WRITERS, csv_config, parquet_config, pictures, write_csv, write_images

SECRET = "wJal/rX@UtnFEMI+K7"
REMEDY = "put credentials into the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for S3)"

# URI, and what of it is shown.
REFUSED = {
    "s3://AKIA:secret@bucket/a": "s3://...@bucket/a:",
    "s3://AKIA:secret@bucket/a?region=us-east-1": "s3://...@bucket/a:",
    "s3://AKIA:secret@bucket": "s3://...@bucket:",
    "S3://AKIA:secret@bucket": "S3://...@bucket:",
    f"s3://AKIA:{SECRET}@bucket/a": "s3://...@bucket/a:",
    "s3://AKIA:secret": "s3://...:",
    "S3://AKIA:secret": "S3://...:",
    "s3://AKIA:sec/ret": "s3://...:",
    "s3://:secret@bucket": "s3://...@bucket:",
    "abfs://container:secret@account.dfs.core.windows.net/a": "abfs://...@account.dfs.core.windows.net/a:",
    "fsspec+ftp://me:secret@host:21/a": "fsspec+ftp://...@host:21/a:",
    "abfs://c@account/a?client_secret=secret": "abfs://c@account/a:",
    "abfs://c@account/a?tenant_id=x&SAS_TOKEN=secret": "abfs://c@account/a:",
    "abfs://c@account/a?sig=secret": "abfs://c@account/a:",
    "s3://bucket/a?secret_key=secret": "s3://bucket/a:",
}
TAKEN = [
    "images",
    "/a:b@c/d",
    "a:b@c",
    "file:///a:b@c",
    "s3://bucket",
    "s3://bucket/a:b@c?endpoint_override=localhost:9000&scheme=http",
    "gs://anonymous@bucket/a",
    "hdfs://user@host:8020/a@b",
    "hdfs://host:8020/a@b",
    "abfs://container@account/a?tenant_id=x",
    "s3://bucket/secret=a?region=x",
]
FIELDS = {
    "data.root": {"kind": "folder"},
    "data.images": {"kind": "csv", "root": "a.csv"},
    "data.cache": {"kind": "glyphs"},
}


@pytest.mark.parametrize(("place", "shown"), REFUSED.items())
def test_credentials_are_refused_and_not_shown(place: str, shown: str) -> None:
    refused = refused_credentials(place)
    assert refused is not None
    assert f"must hold no credentials, but got {shown} {REMEDY}" in refused
    for secret in ("AKIA", "=secret", ":secret", "sec/ret", *SECRET.replace("@", "/").split("/")):
        assert secret not in refused


@pytest.mark.parametrize("place", TAKEN)
def test_what_is_no_secret_is_taken(place: str) -> None:
    assert refused_credentials(place) is None
    for field, data in FIELDS.items():
        parse({"data": data | {field.removeprefix("data."): place}})


@pytest.mark.parametrize(("field", "data"), FIELDS.items())
def test_no_field_of_a_place_takes_them(field: str, data: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as error:
        parse({"data": data | {field.removeprefix("data."): "s3://AKIA:secret@bucket/a"}})
    assert str(error.value).startswith(f"{field}: must hold no credentials, but got s3://...@bucket/a: {REMEDY}")


@pytest.mark.parametrize(
    "argv",
    [
        ["data", "check", "s3://AKIA:secret@bucket/a"],
        ["data", "prepare", "s3://AKIA:secret@bucket/a.zip"],
        ["data", "check", "s3://AKIA:secret@bucket/study.yaml"],
        ["data", "check", "PLACE", "cache=s3://AKIA:secret@bucket/a"],
        ["tune", "STUDY"],
        ["train", "STUDY"],
        ["tune", "STUDY", "data.root=images", "data.cache=s3://AKIA:secret@bucket/a"],
    ],
    ids=" ".join,
)
def test_no_command_repeats_them(argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = tmp_path / "study.yaml"
    data = {"kind": "folder", "root": "s3://AKIA:secret@bucket/a"}
    base = {"base": {"data": data}, "space": {"loss.margin": {"low": 0, "high": 1}}, "storage": str(tmp_path / "runs")}
    study.write_text(json.dumps(base), encoding="utf-8")
    (tmp_path / "images").mkdir()
    words = {"STUDY": str(study), "PLACE": str(tmp_path / "images")}
    assert cli.main([words.get(word, word) for word in argv]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert REMEDY in said.err
    assert "secret@" not in said.err
    assert "AKIA" not in said.err
    assert not (tmp_path / "runs").exists()


def test_an_argument_is_named_as_the_field_it_becomes() -> None:
    with pytest.raises(ConfigError, match=r"^data\.root: must hold no credentials, but got s3://\.\.\.@bucket/a:"):
        located("s3://AKIA:secret@bucket/a", [])


def test_a_table_holds_none_either(tmp_path: Path) -> None:
    images = pictures()
    write_images(tmp_path, images)
    rows = [(image.path, image.label) for image in images]
    rows[4] = ("s3://AKIA:secret@bucket/4.png", "c4")
    table = write_csv(tmp_path / "a.csv", "path,label", rows)
    with pytest.raises(ConfigError, match=r"^data\.root: path in line 6 of .*a\.csv must hold no credentials") as error:
        list_csv(csv_config(table))
    assert "secret@" not in str(error.value)
    columns = {"path": [path for path, _ in rows], "label": [label for _, label in rows]}
    WRITERS["rows.parquet"](pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"^data\.root: path in row 4 of .*a\.parquet must hold no credentials"):
        list_parquet(parquet_config(tmp_path / "a.parquet"))


ROOT_OF_STORAGE, JOB = "RAYDML_STORAGE", "RAY_JOB_CONFIG_JSON_ENV_VAR"

# A storage, the environment, and where it lies; None stands for the current folder.
STORAGES: dict[str, tuple[str, dict[str, str], str | None]] = {
    "here": ("runs", {}, None),
    "a folder": ("/shared/runs", {}, "/shared/runs"),
    "a folder, in a job": ("/shared/runs", {JOB: "{}"}, "/shared/runs"),
    "a URI": ("s3://bucket/runs", {JOB: "{}"}, "s3://bucket/runs"),
    "where the machine says": ("runs", {ROOT_OF_STORAGE: "s3://bucket/", JOB: "{}"}, "s3://bucket/runs"),
    "with options": ("runs", {ROOT_OF_STORAGE: "s3://bucket?region=x"}, "s3://bucket/runs?region=x"),
    "in a folder of the machine": ("runs/more", {ROOT_OF_STORAGE: "/shared"}, "/shared/runs/more"),
    "a URI is none of the machine's": ("gs://b/runs", {ROOT_OF_STORAGE: "s3://bucket"}, "gs://b/runs"),
    "the machine says nothing": ("runs", {ROOT_OF_STORAGE: ""}, None),
}


@pytest.mark.parametrize("name", STORAGES)
def test_where_a_storage_lies(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage, environment, place = STORAGES[name]
    assert resolved_storage(storage, environment) == (place or str(tmp_path / storage))


def test_a_folder_may_be_called_like_the_home_of_nobody() -> None:
    assert resolved_storage("~nobody-of-this-name/runs", {}) == str(Path("~nobody-of-this-name/runs").absolute())


def test_a_job_needs_a_storage_that_outlives_it() -> None:
    with pytest.raises(ConfigError, match=r"^storage: a submitted job needs .* got runs: give storage=s3:"):
        resolved_storage("runs", {JOB: "{}"})


@pytest.mark.parametrize("environment", [{}, {ROOT_OF_STORAGE: "s3://key:secret@bucket"}])
def test_a_storage_holds_no_credentials(environment: dict[str, str]) -> None:
    storage = "runs" if environment else "s3://key:secret@bucket/runs"
    with pytest.raises(ConfigError, match=r"(storage|RAYDML_STORAGE): must hold no credentials") as caught:
        resolved_storage(storage, environment)
    assert "secret" not in str(caught.value)
