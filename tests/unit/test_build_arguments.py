"""What `fleet build` reads of buildx's arguments, and its own among them."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.dispatching.build_arguments import arguments, baked, parse
from fleet.errors import UsageError
from fleet.model.platforms import Platform
from tests.support.values import platforms

AMD, ARM, ARMV7 = platforms("linux/amd64", "linux/arm64", "linux/arm/v7")
OWN = Platform.parse(os.uname().machine)

BUILD: dict[str, tuple[str, tuple[Platform, ...], str | None]] = {
    "nothing": ("", (), None),
    "a context": (".", (), None),
    "standard input as context": ("--platform linux/arm64 -", (ARM,), None),
    "one platform": ("--platform linux/arm64 .", (ARM,), None),
    "one platform with =": ("--platform=linux/arm64 .", (ARM,), None),
    "several with a comma": ("--platform linux/amd64,linux/arm64 .", (AMD, ARM), None),
    "several with a comma and =": ("--platform=linux/arm64,linux/amd64 .", (ARM, AMD), None),
    "repeated": ("--platform linux/amd64 --platform=linux/arm/v7 .", (AMD, ARMV7), None),
    "the same twice, spelled differently": ("--platform linux/arm64,linux/arm64/v8,aarch64 .", (ARM,), None),
    "after the context": (". --platform linux/arm64", (ARM,), None),
    "local": ("--platform local .", (OWN,), None),
    "local and another": ("--platform local,linux/s390x .", (OWN, Platform("linux", "s390x")), None),
    "the value of another flag": ("--build-arg --platform .", (), None),
    "the value of another flag, which looks like one with a value": ("--build-arg --platform=linux/arm64 .", (), None),
    "the value of a short flag": ("-t --platform=linux/arm64 .", (), None),
    "the value of a short flag behind a switch": ("-qt --platform=linux/arm64 .", (), None),
    "a short flag with its value attached": ("-tapp --platform linux/arm64 .", (ARM,), None),
    "a short flag with = and its value": ("-t=app --platform linux/arm64 .", (ARM,), None),
    "a short switch": ("-q --platform linux/arm64 .", (ARM,), None),
    "several short switches": ("-qD --platform linux/arm64 .", (ARM,), None),
    "short switches and a flag with its value": ("-qDt app --platform linux/arm64 .", (ARM,), None),
    "short switches and a flag with its value attached": ("-qDtapp --platform linux/arm64 .", (ARM,), None),
    "a switch": ("--push --platform linux/arm64 .", (ARM,), None),
    "every switch": (
        "--check --debug --load --no-cache --pull --push --quiet --platform linux/arm64 .",
        (ARM,),
        None,
    ),
    "a switch with a value": ("--pull=false --platform linux/arm64 .", (ARM,), None),
    "a switch and a context": ("--load . --platform linux/arm64", (ARM,), None),
    "flags with values": ("-f Dockerfile -o type=local,dest=out -t app --platform linux/arm64 .", (ARM,), None),
    "after --": ("--platform linux/arm64 -- --platform linux/amd64", (ARM,), None),
    "-- as a value": ("--build-arg -- --platform linux/arm64 .", (ARM,), None),
    "an empty value": ("--label= --platform linux/arm64 .", (ARM,), None),
    "a builder": ("--builder mine .", (), "mine"),
    "a builder with =": ("--builder=mine --platform linux/arm64 .", (ARM,), "mine"),
    "a builder after --": ("-- --builder mine", (), None),
    "a builder as a value": ("-t --builder .", (), None),
}


@pytest.mark.parametrize(("typed", "wanted", "builder"), BUILD.values(), ids=BUILD)
def test_the_arguments_of_a_build_are_read_as_buildx_reads_them(
    typed: str, wanted: tuple[Platform, ...], builder: str | None
) -> None:
    asked = parse(typed.split())
    assert (asked.platforms, asked.builder) == (wanted, builder)
    assert list(asked.words) == typed.split()


@pytest.mark.parametrize(
    ("typed", "complaint"),
    [
        ("--platform windows/amd64 .", "--platform windows/amd64: .*linux only"),
        ("--platform linux/vax .", "unknown architecture 'vax'"),
        ("--platform linux/amd64,,linux/arm64 .", "'' is not a platform"),
        ("--platform= .", "'' is not a platform"),
        ("--platform", "'' is not a platform"),
    ],
)
def test_platforms_that_no_daemon_builds_are_refused(typed: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        parse(typed.split(" "))


def test_spaces_around_platforms_are_of_no_account() -> None:
    assert parse(["--platform", "linux/amd64, linux/arm64"]).platforms == (AMD, ARM)


def test_flags_come_with_their_values_and_as_they_were_typed() -> None:
    line = "-qf Dockerfile --push --build-arg A=1 -tapp . --target=x -o=out --no-cache=true -q -- -f y"
    typed = line.split()
    read = list(arguments(typed))
    assert [(argument.flag, argument.value) for argument in read] == [
        ("-f", "Dockerfile"),
        ("--push", ""),
        ("--build-arg", "A=1"),
        ("-t", "app"),
        ("", "."),
        ("--target", "x"),
        ("-o", "out"),
        ("--no-cache", "true"),
        ("-q", ""),
        ("--", ""),
        ("", "-f"),
        ("", "y"),
    ]
    assert [word for argument in read for word in argument.words] == typed


# ------------------------------------------------------------------------------------------------- fleet's own


@pytest.mark.parametrize("typed", [". {}", "{} .", "-t app {} --push .", "--build-arg A=1 {} ."])
def test_fleets_own_options_stand_anywhere_and_are_kept_from_buildx(typed: str) -> None:
    own = "--affinity web --retries=5 --wait-at-most 90s -i fleet.yaml --fleet acme"
    asked = parse(typed.format(own).split())
    assert (asked.affinity, asked.retries, asked.patience) == ("web", 5, 90.0)
    assert (asked.inventory, asked.fleet) == ("fleet.yaml", "acme")
    assert list(asked.words) == typed.format("").split()


def test_a_value_of_buildx_is_not_an_option_of_fleets() -> None:
    asked = parse(["--build-arg", "--no-queue", "--", "--affinity"])
    assert (asked.patience, asked.affinity, asked.context) == (float("inf"), None, "--affinity")
    assert parse(["--no-queue", "."]).patience == 0


@pytest.mark.parametrize(
    "typed", [["--retries", "-1"], ["--retries=many"], ["--wait-at-most", "soon"], ["--no-queue=maybe"]]
)
def test_an_option_with_a_wrong_value_is_refused(typed: list[str]) -> None:
    with pytest.raises(UsageError, match=typed[0].partition("=")[0]):
        parse([*typed, "."])


@pytest.mark.parametrize(
    ("typed", "repeatable"),
    [
        (".", True),
        ("-", False),
        ("-f - .", False),
        ("--file=- .", False),
        ("-o - .", False),
        ("--output type=tar,dest=- .", False),
        ("-o type=tar,dest=out.tar .", True),
        ("-t - .", True),
    ],
)
def test_what_goes_through_a_pipe_cannot_be_run_twice(typed: str, repeatable: bool) -> None:
    assert parse(typed.split()).repeatable is repeatable


@given(st.lists(st.text(alphabet="-=ofqtp. ", max_size=6)))
def test_buildx_gets_every_word_that_is_not_fleets(words: list[str]) -> None:
    assert [word for argument in arguments(words) for word in argument.words] == words


def test_each_branch_and_platform_has_a_cache_of_its_own() -> None:
    asked = replace(parse(["--cache", "example.com:5000/app/cache", "."]), branches=("feature/x y", "main"))
    place = "type=registry,ref=example.com:5000/app/cache:"
    assert asked.cached(ARMV7) == (
        *("--cache-from", f"{place}feature-x-y-linux-arm-v7", "--cache-from", f"{place}main-linux-arm-v7"),
        *("--cache-to", f"{place}feature-x-y-linux-arm-v7,mode=max"),
    )
    assert parse(["."]).cached(ARM) == ()


@pytest.mark.parametrize("cache", ["", "example.com/cache:tag", "example.com/cache@sha256:ab", "a,b"])
def test_a_cache_is_a_repository(cache: str) -> None:
    with pytest.raises(UsageError, match="not a repository without a tag"):
        parse(["--cache", cache, "."])


# -------------------------------------------------------------------------------------------------------- bake


def test_a_bake_is_for_the_platforms_of_its_targets() -> None:
    printed = json.dumps({"target": {"web": {"platforms": ["linux/amd64", "linux/arm64"]}, "docs": {}}})
    asked = baked(parse(["--push", "web", "docs"]), printed, ARMV7)
    assert asked.platforms == (AMD, ARM, ARMV7)
    assert asked.words == ("--set", "docs.platform=linux/arm/v7", "--push", "web", "docs")
    assert (asked.command, asked.context) == ("bake", ".")


@pytest.mark.parametrize("option", ["--split", "--cache=example.com/cache"])
def test_a_bake_has_caches_of_its_own_file(option: str) -> None:
    with pytest.raises(UsageError, match="bake has no"):
        baked(parse([option]), "{}", AMD)
