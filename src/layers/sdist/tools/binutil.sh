#!/bin/sh
# Called as ar, ranlib, ld, objcopy or strip.
name=${0##*/}
case $name in
# What is linked has no symbols to lose.
strip) exit 0 ;;
ld) name=ld.lld ;;
esac
exec "$ASSEMBLE_TOOLCHAIN/zig" "$name" "$@"
