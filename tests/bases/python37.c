/* Starts the interpreter in the file that programs are frozen into: it is a program itself, which the
 * loader of musl takes for a library too. Compiled with STUB this is what stands for it when linking, as
 * linkers do not take programs.
 */

#ifdef STUB
int _Py_UnixMain(int argc, char **argv) { return argc + !argv; }
#else
extern int _Py_UnixMain(int argc, char **argv);
int main(int argc, char **argv) { return _Py_UnixMain(argc, argv); }
#endif
