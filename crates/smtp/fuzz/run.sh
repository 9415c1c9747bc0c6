#!/bin/sh
# Builds every fuzz target and runs each for a number of seconds: crates/smtp/fuzz/run.sh SECONDS [TARGET...]
#
# One closing line a target. Exits with 1 if a target found something, after printing the input that did it in base64
# (put it back with `base64 -d` and give the file to the target's binary). It needs neither nightly nor cargo-fuzz: the
# coverage counters come from LLVM's own pass, which the stable compiler can be told to run. Only the build's target
# folder, which git ignores, is left behind; corpus and findings live in a temporary folder.
set -eu

usage() {
    echo "usage: $0 SECONDS [TARGET...]" >&2
    exit 2
}

[ $# -ge 1 ] || usage
seconds=$1
shift
case $seconds in '' | *[!0-9]* | 0) usage ;; esac

cd "$(dirname "$0")"
[ $# -ge 1 ] || set -- data_decode server_session client_session reply proxy
host=$(rustc -vV | sed -n 's/^host: //p')
counters="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing"

# With --target the flags reach neither build scripts nor proc macros.
CARGO_TARGET_DIR=$PWD/target RUSTFLAGS=$counters cargo build --quiet --locked --release --bins --target "$host"

work=$(mktemp -d)
child=
trap '[ -z "$child" ] || kill "$child" 2>/dev/null || :; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
failed=0
for target in "$@"; do
    mkdir -p "$work/$target/corpus" "$work/$target/found"
    # A megabyte is far more than the sessions may keep of an input; the limit on memory would show if they kept it.
    "target/$host/release/$target" "$work/$target/corpus" "seeds/$target" -dict=smtp.dict -max_total_time="$seconds" \
        -max_len=4096 -timeout=5 -rss_limit_mb=1024 -artifact_prefix="$work/$target/found/" \
        >"$work/$target/log" 2>&1 &
    child=$!
    code=0
    wait "$child" || code=$?
    child=
    runs=$(sed -n 's/^Done \([0-9]*\) runs.*/\1/p' "$work/$target/log")
    covered=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$work/$target/log" | tail -n 1)
    if [ "$code" -eq 0 ] && [ -n "$runs" ]; then
        echo "fuzz $target: ok, $runs runs in $seconds s, coverage ${covered:-0}"
        continue
    fi
    failed=1
    grep -E 'panicked|^  *(left|right):|ERROR|SUMMARY' -A 1 "$work/$target/log" | head -n 20 >&2 || :
    for input in "$work/$target/found"/*; do
        [ ! -f "$input" ] || { echo "input in base64:" && base64 "$input"; } >&2
    done
    echo "fuzz $target: FAILED with code $code"
done
exit "$failed"
