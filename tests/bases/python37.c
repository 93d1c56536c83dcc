/* Starts the interpreter in the file that programs are frozen into: it is a program itself, which the
 * loader of musl takes for a library too.
 */

#include <dlfcn.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    void *interpreter = dlopen("libpython3.7m.so.1.0", RTLD_NOW | RTLD_GLOBAL);
    int (*run)(int, char **) = NULL;
    if (interpreter)
        run = (int (*)(int, char **))dlsym(interpreter, "_Py_UnixMain");
    if (run)
        return run(argc, argv);
    fprintf(stderr, "%s\n", dlerror());
    return 127;
}
