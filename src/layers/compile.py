"""Compiles modules to bytecode: run by the base's own Python, in /build.

job.json: [[source below src/, path in the image], ...]; out/<number>.pyc: the bytecode of each that can be
compiled. What cannot (templates, Python 2) is left out, as pip does. Each module is compiled by a process of
its own: what the marshaller writes depends on which strings the process knows from before.
"""
import json
import os
import py_compile
import sys

here = os.path.dirname(os.path.abspath(__file__))

with open(os.path.join(here, "job.json")) as file:
    job = json.load(file)

for number, (source, path) in enumerate(job):
    child = os.fork()
    if child == 0:
        status = 3
        try:
            py_compile.compile(
                os.path.join(here, "src", source),
                cfile=os.path.join(here, "out", "%d.pyc" % number),
                dfile=path,
                doraise=True,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )
            status = 0
        except py_compile.PyCompileError as error:
            sys.stderr.write(error.msg + "\n")
            sys.stderr.flush()
            status = 1
        finally:
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    if ended not in (0, 1 << 8):
        sys.exit("compiling %s ended with %d" % (path, ended))
