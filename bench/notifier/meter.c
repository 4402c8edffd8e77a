// The clock, the CPU time and memory of processes, and the first error.
#define _GNU_SOURCE
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "load.h"

static char error_text[400];

static uint64_t read_clock(clockid_t clock)
{
    struct timespec time;
    if (clock_gettime(clock, &time) != 0)
        return 0;
    return (uint64_t)time.tv_sec * 1000000000ull + (uint64_t)time.tv_nsec;
}

uint64_t now_ns(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

// User and system time of all threads in nanoseconds, while /proc/PID/stat has only clock ticks.
uint64_t cpu_ns(const struct processes *processes)
{
    uint64_t total = 0;
    for (int i = 0; i < processes->count; i++) {
        clockid_t clock;
        if (clock_getcpuclockid(processes->ids[i], &clock) == 0)
            total += read_clock(clock);
        else
            record_error("process %d has ended", (int)processes->ids[i]);
    }
    return total;
}

uint64_t resident_bytes(const struct processes *processes)
{
    uint64_t total = 0;
    for (int i = 0; i < processes->count; i++) {
        char path[64], line[256];
        unsigned long kilobytes;
        snprintf(path, sizeof path, "/proc/%d/smaps_rollup", (int)processes->ids[i]);
        FILE *file = fopen(path, "r");
        while (file && fgets(line, sizeof line, file))
            if (sscanf(line, "Rss: %lu kB", &kilobytes) == 1)
                total += kilobytes * 1024;
        if (file)
            fclose(file);
    }
    return total;
}

// Keeps only the first error, since later ones are mostly its consequences. Characters that JSON would have to escape
// are replaced by spaces.
void record_error(const char *format, ...)
{
    if (error_text[0])
        return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error_text, sizeof error_text, format, arguments);
    va_end(arguments);
    for (char *c = error_text; *c; c++)
        if (*c == '"' || *c == '\\' || (unsigned char)*c < ' ' || (unsigned char)*c > '~')
            *c = ' ';
}

const char *first_error(void)
{
    return error_text;
}
