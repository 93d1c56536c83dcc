"""Builds one wheel by PEP 517, inside the sandbox. Runs on CPython 3.6 and later.

Started as `python -S -s -B build_wheel.py` in a folder that holds
    job.json      {"backend": "setuptools.build_meta", "backend_path": []}
    env/          the build requirements, unpacked
    src/          the sdist, unpacked
    out/          where the wheel goes
    target/       if there is a compiler: the sysconfig data of the Python that it is built for
and writes result.json: {"wheel": "name.whl"} or {"missing": ["requirement"]}; on any
other failure only the log says why.
Without `site` (-S) the base's own site-packages is not on the path: only what was locked is.
"""

import json
import os
import re
import shutil
import sys


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    # The script's own folder comes first; nothing is to be imported from it.
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]
    with open(os.path.join(here, "job.json"), encoding="utf-8") as file:
        job = json.load(file)

    def finish(result, code):
        with open(os.path.join(here, "result.json"), "w", encoding="utf-8") as file:
            json.dump(result, file)
        sys.stdout.flush()
        sys.stderr.flush()
        sys.exit(code)

    # Where it is run in place, only what stands for it on the PATH can be started again.
    sys.executable = shutil.which(os.path.basename(sys.executable)) or sys.executable
    # How the Python was built that the wheel is for. Before anything reads its own.
    path = [os.path.join(here, "env")]
    target = os.path.join(here, "target")
    if os.path.isdir(target):
        for name in os.listdir(target):
            os.environ["_PYTHON_SYSCONFIGDATA_NAME"] = os.path.splitext(name)[0]
        sys.path.insert(0, target)
        path.append(target)
    # What the compiler's wrapper takes for ours.
    if "ASSEMBLE_TARGET" in os.environ:
        os.environ["ASSEMBLE_BASE_PREFIX"] = sys.base_prefix
        name_machine(os.environ["_PYTHON_HOST_PLATFORM"].split("-", 1)[1])
        name_compiler(os.path.join(here, "tools"))

    env = os.path.join(here, "env")
    source = os.path.join(here, "src")
    out = os.path.join(here, "out")
    import site

    # What `site` adds to builtins, for setup scripts that call `exit()`.
    site.setquit()
    site.setcopyright()
    # Runs `.pth` files: setuptools brings distutils back with one.
    site.addsitedir(env)
    os.environ["PYTHONPATH"] = os.pathsep.join(path)
    os.chdir(source)

    # PEP 517: backend-path comes before everything, and the backend must come from there.
    backend_path = [os.path.join(source, entry) for entry in job["backend_path"]]
    sys.path[:0] = backend_path
    name, _, attributes = job["backend"].partition(":")
    try:
        import importlib

        backend = importlib.import_module(name)
    except ModuleNotFoundError as error:
        import traceback

        traceback.print_exc()
        finish({"missing": [error.name or name]}, 1)
    if backend_path:
        origin = os.path.realpath(getattr(backend, "__file__", None) or "")
        inside = [os.path.realpath(entry) + os.sep for entry in backend_path]
        if not any(origin.startswith(entry) for entry in inside):
            print("the backend %s does not come from backend-path but from %s" % (name, origin))
            sys.exit(1)
    for attribute in attributes.split(".") if attributes else []:
        backend = getattr(backend, attribute)

    hook = getattr(backend, "get_requires_for_build_wheel", None)
    wanted = hook(None) if hook is not None else []
    missing = [text for text in wanted if not is_there(text, env)]
    if missing:
        finish({"missing": missing}, 1)

    os.chdir(source)
    wheel = backend.build_wheel(out, None, None)
    finish({"wheel": wheel}, 0)


def name_machine(machine):
    """Whoever asks for the machine means the one that is built for."""
    own = os.uname()
    os.uname = lambda: os.uname_result(tuple(own)[:4] + (machine,))


def name_compiler(tools):
    """Says `cc` where the Python was built by a program that is none of ours: its flags stay."""
    import sysconfig

    for variable, own in (("CC", "cc"), ("CXX", "c++"), ("AR", "ar")):
        words = (sysconfig.get_config_var(variable) or own).split()
        if not os.path.exists(os.path.join(tools, os.path.basename(words[0]))):
            os.environ.setdefault(variable, " ".join([own] + words[1:]))


def is_there(requirement, env):
    """Whether a requirement's project is in `env`, in a version that fits if that can be told."""
    packaging = find_packaging()
    specifier = None
    if packaging is not None:
        parsed = packaging.Requirement(requirement)
        if parsed.marker is not None and not parsed.marker.evaluate({"extra": ""}):
            return True
        project, specifier = parsed.name, parsed.specifier
    else:
        project = re.match(r"\s*([A-Za-z0-9._-]+)", requirement).group(1)
    for entry in os.listdir(env):
        match = re.match(r"([^-]+)-([^-]+)\.dist-info$", entry)
        if match and normalise(match.group(1)) == normalise(project):
            return specifier is None or specifier.contains(match.group(2), prereleases=True)
    return False


def find_packaging():
    """The grammar of requirements, wherever the build requirements bring it."""
    import importlib

    for name in (
        "packaging.requirements",
        "setuptools._vendor.packaging.requirements",
        "setuptools.extern.packaging.requirements",
    ):
        try:
            return importlib.import_module(name)
        except ImportError:
            pass
    return None


def normalise(name):
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
