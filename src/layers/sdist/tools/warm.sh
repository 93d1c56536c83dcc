#!/bin/sh
# Lets zig make its own runtime for the target, once: what it would do at first use in every build.
set -e
cd /build 2>/dev/null || cd "$ASSEMBLE_WORK"
echo 'int answer(void) { return 42; }' >answer.c
echo 'int main(void) { return 0; }' >main.c
cc -O2 -fPIC -shared answer.c -o answer.so
cc -O2 main.c -o main
if [ "$1" = c++ ]; then
    printf '#include <string>\n#include <stdexcept>\nextern "C" int size(int n) {\n    try { if (n > 9) throw std::runtime_error("n"); return std::string(n, 42).size(); }\n    catch (std::exception&) { return 0; }\n}\n' >size.cc
    c++ -O2 -fPIC -shared size.cc -o size.so
fi
