"""What a hostile build script tries, run inside the sandbox with what the test has for it to reach; the
list of what it reached. Where it reaches something, only what was made for the test is harmed."""

import ctypes
import json
import mimetypes
import multiprocessing
import os
import signal
import socket
import struct
import sys
import zoneinfo

libc = ctypes.CDLL(None, use_errno=True)
reached = []
with open(os.path.join(os.path.dirname(__file__), "given.json")) as file:
    given = json.load(file)


def attempt(name, call):
    try:
        found = call()
    except OSError as error:
        print(name, "refused:", error)
        return
    if found is not False:
        reached.append(name)


def called(name, *arguments):
    """A function of the C library that says -1 when it fails."""
    if getattr(libc, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def read(path):
    with open(path, "rb") as file:
        return file.read()


def write(path, flags):
    descriptor = os.open(path, flags, 0o644)
    os.write(descriptor, b"hostile")
    os.close(descriptor)


def send(family, kind, address, packet=b"hostile"):
    with socket.socket(family, kind) as own:
        own.settimeout(2)
        if kind == socket.SOCK_STREAM:
            own.connect(address)
        else:
            own.sendto(packet, address)


secret, passwd = given["folder"] + "/secret", given["passwd"].encode()
for path in [secret] + given["files"]:
    attempt("read " + path, lambda: read(path))
    attempt("open to write " + path, lambda: os.close(os.open(path, os.O_WRONLY)))
attempt("write", lambda: write(secret, os.O_WRONLY))
# The base may have its own.
attempt("read /etc/passwd", lambda: read("/etc/passwd") == passwd)
for path, names in given["names"].items():
    attempt("list " + path, lambda: sorted(os.listdir(path)) == names)
for path in given["folders"]:
    attempt("list " + path, lambda: os.listdir(path))
    attempt("write below " + path, lambda: write(path + "/hostile", os.O_WRONLY | os.O_CREAT))
    attempt("make a folder below " + path, lambda: os.mkdir(path + "/hostile"))
attempt("list the processes", lambda: str(given["pid"]) in os.listdir("/proc"))
attempt("truncate", lambda: os.truncate(secret, 0))
attempt("unlink", lambda: os.unlink(secret))
attempt("rename", lambda: os.rename(secret, secret + "-2"))
attempt("replace", lambda: os.rename(__file__, secret))
attempt("take", lambda: os.link(secret, "taken"))
attempt("symlink", lambda: os.symlink("/", given["folder"] + "/link"))
# Through a link of its own.
os.symlink(given["folder"], "folder")
attempt("read through a link", lambda: read("folder/secret"))
attempt("run", lambda: os.posix_spawn(given["program"], [given["program"]], {}))

standard = sys.base_prefix + "/lib"
attempt("write to the base", lambda: (os.mkdir(standard + "/hostile"), os.rmdir(standard + "/hostile")))
attempt("change the base", lambda: os.close(os.open(os.__file__, os.O_WRONLY)))

attempt("tcp", lambda: send(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", given["tcp"])))
attempt("udp", lambda: send(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", given["udp"])))
# The same with the numbers of the x32 calls, where the kernel has them: 41 is `socket`.
attempt("x32", lambda: os.uname().machine == "x86_64" and called("syscall", 0x40000029, 2, 2, 0))
# 425 is `io_uring_setup` on every machine.
ring = ctypes.create_string_buffer(120)
attempt("io_uring", lambda: given["strict"] and called("syscall", 425, 1, ring))
echo = struct.pack("!BBHHH", 8, 0, 0xF7FF, 0, 0)
attempt("raw", lambda: send(socket.AF_INET, socket.SOCK_RAW, ("127.0.0.1", 0), echo))
attempt("packet", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
attempt("abstract", lambda: send(socket.AF_UNIX, socket.SOCK_STREAM, "\0" + given["abstract"]))
attempt("socket", lambda: send(socket.AF_UNIX, socket.SOCK_STREAM, given["folder"] + "/socket"))

attempt("signal", lambda: os.kill(given["pid"], 0))
attempt("kill", lambda: os.kill(given["pid"], signal.SIGKILL))
attempt("seize", lambda: called("ptrace", 0x4206, given["pid"], 0, 0))
for name in ("environ", "mem", "root/etc/passwd", "fd"):
    path = "/proc/%d/%s" % (given["pid"], name)
    attempt("read the process's " + name, lambda: os.listdir(path) if name == "fd" else read(path))

attempt("make a device", lambda: os.mknod("device", 0o20600, os.makedev(1, 3)))
attempt("give away", lambda: os.chown(__file__, 4321, 4321))
attempt("be another", lambda: os.setuid(4321))
attempt("chroot", lambda: os.chroot("."))
attempt("mount", lambda: called("mount", b"none", b".", b"tmpfs", 0, None))
attempt("name the host", lambda: socket.sethostname("hostile"))

print("reached:", reached, flush=True)

# What it may do.
pair = socket.socketpair()
pair[0].send(b"own")
assert pair[1].recv(3) == b"own"
own = socket.socket(socket.AF_UNIX)
own.bind("own")
own.listen()
send(socket.AF_UNIX, socket.SOCK_STREAM, "own")
abstract = socket.socket(socket.AF_UNIX)
abstract.bind("\0" + given["abstract"] + "-own")
abstract.listen()
send(socket.AF_UNIX, socket.SOCK_STREAM, "\0" + given["abstract"] + "-own")
mimetypes.init()
try:
    zoneinfo.ZoneInfo("UTC")
except zoneinfo.ZoneInfoNotFoundError:
    pass
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(abs, [-1, 2]) == [1, 2]
write("/dev/null", os.O_WRONLY)
assert read("/dev/null") == b"" and len(os.urandom(9)) == 9
os.mkdir("a")
write("a/file", os.O_WRONLY | os.O_CREAT)
os.mkdir("b")
os.rename("a/file", "b/file")
assert os.system("exit 7") == 7 << 8
