/* A QEMU TCG plugin that writes how many guest instructions ran up to each marker. For qemu-user 7.2 and later.
 *
 *     gcc -O2 -Wall -Wextra -Werror -fPIC -shared -o count_instructions.so count_instructions.c
 *     qemu-aarch64 -plugin ./count_instructions.so,out=counts.txt program
 *
 * A marker is a system call with an unused number, MARK_FIRST + k; a kernel answers ENOSYS, so the same program runs
 * on a device too. Each writes a line "mark K OWN ALL": instructions of the thread that gave it, and of all threads.
 * The last line is "end ALL". Debian packages no qemu-plugin.h, so what is used of the interface is declared here.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct info {
    const char *target_name;
    struct { int min, cur; } version;
    bool system_emulation;
};
typedef void (*on_translation)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*on_execution)(unsigned int, void *);
typedef void (*on_syscall)(qemu_plugin_id_t, unsigned int, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                           uint64_t, uint64_t, uint64_t);
extern void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, on_translation);
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, on_execution, int, void *);
extern void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, on_syscall);
extern void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, void *), void *);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);

#define EXPORTED __attribute__((visibility("default")))
EXPORTED int qemu_plugin_version = 1;

enum { MARK_FIRST = 5000, MARK_END = 6000, MAX_THREADS = 256, NO_REGISTERS = 0 };

/* One cache line per thread: they count at the same time. */
static struct { uint64_t n; char pad[56]; } counted[MAX_THREADS];
static FILE *out;

static uint64_t all_threads(void)
{
    uint64_t total = 0;
    for (int i = 0; i < MAX_THREADS; i++)
        total += counted[i].n;
    return total;
}

static void executed(unsigned int thread, void *n_instructions)
{
    counted[thread % MAX_THREADS].n += (uintptr_t)n_instructions;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block)
{
    (void)id;
    void *n_instructions = (void *)(uintptr_t)qemu_plugin_tb_n_insns(block);
    qemu_plugin_register_vcpu_tb_exec_cb(block, executed, NO_REGISTERS, n_instructions);
}

static void called(qemu_plugin_id_t id, unsigned int thread, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3,
                   uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8)
{
    (void)id, (void)a1, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number < MARK_FIRST || number >= MARK_END)
        return;
    fprintf(out, "mark %d %llu %llu\n", (int)(number - MARK_FIRST),
            (unsigned long long)counted[thread % MAX_THREADS].n, (unsigned long long)all_threads());
}

static void finished(qemu_plugin_id_t id, void *nothing)
{
    (void)id, (void)nothing;
    fprintf(out, "end %llu\n", (unsigned long long)all_threads());
    fclose(out);
}

EXPORTED int qemu_plugin_install(qemu_plugin_id_t id, const struct info *info, int n_options, char **options)
{
    const char *path = NULL;
    for (int i = 0; i < n_options; i++)
        if (strncmp(options[i], "out=", 4) == 0)
            path = options[i] + 4;
    if (info->system_emulation || path == NULL || (out = fopen(path, "w")) == NULL) {
        fprintf(stderr, "count_instructions: wants user-mode emulation and out=FILE that can be written\n");
        return -1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    qemu_plugin_register_atexit_cb(id, finished, NULL);
    return 0;
}
