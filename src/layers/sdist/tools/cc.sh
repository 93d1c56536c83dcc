#!/bin/sh
# The compiler for the target; called as cc, gcc, c++ or g++. zig knows the C library's headers and
# symbols itself, and has to be told where the target's other headers and libraries are. Where the
# build's Python names its own, the target's are meant.
case ${0##*/} in
*++) language=c++ ;;
*) language=cc ;;
esac
# A processor in zig's words: `x86-64-v2` is `x86_64_v2`, `armv8.2-a+crc` is `generic+v8_2a+crc`.
processor() {
    processor=$1
    while [ "${processor#*-}" != "$processor" ]; do processor=${processor%%-*}_${processor#*-}; done
    case $processor in
    armv8_a*) processor=generic${processor#armv8_a} ;;
    armv8.?_a*)
        revision=${processor#armv8.}
        processor=generic+v8_${revision%%_*}a${processor#armv8.?_a}
        ;;
    esac
}
target=$ASSEMBLE_TARGET_ROOT
own=$ASSEMBLE_BASE_PREFIX
for word do
    shift
    case $word in
    -I"$own"/*) word=-I$target/usr/local${word#-I"$own"} ;;
    -L"$own"/*) word=-L$target/usr/local${word#-L"$own"} ;;
    # gcc takes C++ for what it is; zig, called as a C compiler, has no C++ headers for it.
    *.cc | *.cpp | *.cxx | *.c++ | *.C | *.CPP | c++) language=c++ ;;
    # As in the base: zig would compile a whole C library for libtool, which only wants to know.
    -static)
        echo "$0: the base has no static C library" >&2
        exit 1
        ;;
    # GNU ld's, unknown to zig; they decide nothing about the result's meaning.
    -Wl,-Bsymbolic-functions | -Wl,--no-copy-dt-needed-entries | -Wl,--export-all-symbols) continue ;;
    -Wl,--exclude-libs,*) continue ;;
    # What runs fastest where, zig would take for what runs at all; the machine at hand is not the target.
    -mtune=* | -march=native | -mcpu=native) continue ;;
    -march=* | -mcpu=*) processor "${word#*=}" && word=${word%%=*}=$processor ;;
    -flto=auto | -flto=jobserver) word=-flto ;;
    esac
    set -- "$@" "$word"
done
# Old C is full of what clang calls errors and gcc called warnings until its version 14.
lenient="-Wno-error=implicit-function-declaration -Wno-error=implicit-int -Wno-error=int-conversion \
    -Wno-error=incompatible-function-pointer-types"
if [ $language = c++ ]; then lenient=; fi
# Debian's folders of one machine.
case $ASSEMBLE_TARGET in
*-gnu*)
    triplet=${ASSEMBLE_TARGET%%.*}
    set -- "$@" -idirafter "$target/usr/include/$triplet" "-L$target/usr/lib/$triplet" "-L$target/lib/$triplet"
    ;;
esac
# Dynamic, as everything of the base is; no debug information, no paths of this build.
# shellcheck disable=SC2086 # they are words
exec "$ASSEMBLE_TOOLCHAIN/zig" "$language" -target "$ASSEMBLE_TARGET" -dynamic -fno-sanitize=undefined \
    $lenient \
    "-ffile-prefix-map=$ASSEMBLE_WORK=/build" \
    "-ffile-prefix-map=$ASSEMBLE_TOOLCHAIN=/toolchain" \
    "-ffile-prefix-map=$target=/target" \
    "$@" -g0 -s \
    -isystem "$target/usr/local/include" -idirafter "$target/usr/include" \
    "-L$target/usr/local/lib" "-L$target/usr/lib" "-L$target/lib"
