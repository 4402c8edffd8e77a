// The command line of the load client, checked against the limits in load.h.
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "load.h"

struct options options = {
    .watch_path = "/", .report_path = "/", .origin = "http://127.0.0.1", .watchers = 1, .reporters = 1, .batch = 1,
    .outstanding = 1000000, .rate = 1, .portions = 1, .settle_seconds = 0.3,
};

_Noreturn void fail(const char *reason)
{
    fprintf(stderr, "load: %s\n", reason);
    exit(2);
}

// Reads jobs, one per line: token, head, middle and tail, separated by tabs.
static struct job *read_jobs(const char *path, int *count)
{
    static char line[1 << 16];
    struct job *jobs = NULL;
    FILE *file = fopen(path, "r");
    if (!file)
        fail(path);
    for (*count = 0; fgets(line, sizeof line, file); (*count)++) {
        char *rest = strdup(line);
        rest[strcspn(rest, "\n")] = 0;
        jobs = realloc(jobs, (size_t)(*count + 1) * sizeof *jobs);
        struct job *job = &jobs[*count];
        job->token = strsep(&rest, "\t");
        job->head = strsep(&rest, "\t");
        job->middle = strsep(&rest, "\t");
        job->tail = strsep(&rest, "\t");
        if (!job->tail)
            fail("a job has too few fields");
    }
    fclose(file);
    return jobs;
}

static void read_connections(const char *path)
{
    char line[500];
    FILE *file = fopen(path, "r");
    if (!file)
        fail(path);
    for (int i = 0; i < MAX_WATCHERS && fgets(line, sizeof line, file); i++) {
        line[strcspn(line, "\n")] = 0;
        options.connections[i] = strdup(line);
    }
    fclose(file);
}

static int read_numbers(char *text, int *numbers, int max)
{
    int count = 0;
    for (char *word = strtok(text, ","); word && count < max; word = strtok(NULL, ","))
        numbers[count++] = atoi(word);
    return count;
}

static enum protocol read_protocol(const char *name)
{
    static const char *const PROTOCOLS[] = {"plain", "socketio", "headway", "hub-json", "hub-messagepack", "events"};
    for (int i = PLAIN; i <= EVENT_STREAM; i++)
        if (!strcmp(name, PROTOCOLS[i]))
            return (enum protocol)i;
    fail("unknown protocol");
}

enum flag {
    PROTOCOL, WATCH_PORTS, REPORT_PORT, WATCH_PATH, REPORT_PATH, ORIGIN, KEY, WATCHERS, STUCK, JOBS, USE_JOBS, FILLER,
    FILLER_REPORTS, CONNECTIONS, REPORTERS, BATCH, OUTSTANDING, PORTIONS, RATE, SECONDS, SETTLE, SERVER, REDIS, FLAGS
};
static const char *const NAMES[FLAGS] = {
    "protocol", "watch-ports", "report-port", "watch-path", "report-path", "origin", "key", "watchers", "stuck", "jobs",
    "use-jobs", "filler", "filler-reports", "connections", "reporters", "batch", "outstanding", "portions", "rate",
    "seconds", "settle", "server", "redis"
};

static void read_option(enum flag flag, char *value)
{
    int ignored;
    switch (flag) {
    case PROTOCOL: options.protocol = read_protocol(value); break;
    case WATCH_PORTS: options.replicas = read_numbers(value, options.watch_ports, MAX_REPLICAS); break;
    case REPORT_PORT: options.report_port = atoi(value); break;
    case WATCH_PATH: options.watch_path = value; break;
    case REPORT_PATH: options.report_path = value; break;
    case ORIGIN: options.origin = value; break;
    case KEY: options.key = value; break;
    case WATCHERS: options.watchers = atoi(value); break;
    case STUCK: options.stuck = atoi(value); break;
    case JOBS: options.jobs = read_jobs(value, &options.job_count); break;
    case USE_JOBS: options.job_count = atoi(value); break;
    case FILLER: options.filler = read_jobs(value, &ignored); break;
    case FILLER_REPORTS: options.filler_reports = atoi(value); break;
    case CONNECTIONS: read_connections(value); break;
    case REPORTERS: options.reporters = atoi(value); break;
    case BATCH: options.batch = atoi(value); break;
    case OUTSTANDING: options.outstanding = atoi(value); break;
    case PORTIONS: options.portions = atoi(value); break;
    case RATE: options.rate = atof(value); break;
    case SECONDS: options.seconds = atof(value); break;
    case SETTLE: options.settle_seconds = atof(value); break;
    case SERVER: options.server.count = read_numbers(value, options.server.ids, MAX_PROCESSES); break;
    case REDIS: options.redis.count = read_numbers(value, options.redis.ids, MAX_PROCESSES); break;
    case FLAGS: break;
    }
}

void read_options(int count, char **arguments)
{
    struct option known[FLAGS + 1] = {0};
    int found;
    for (int i = 0; i < FLAGS; i++)
        known[i] = (struct option){NAMES[i], required_argument, NULL, 'A' + i};
    while ((found = getopt_long(count, arguments, "", known, NULL)) != -1) {
        if (found == '?')
            exit(2);
        read_option((enum flag)(found - 'A'), optarg);
    }
    if (!options.job_count || !options.replicas)
        fail("--jobs and --watch-ports are required");
    if (options.watchers + options.stuck > MAX_WATCHERS || options.reporters > MAX_REPORTERS ||
        options.batch > MAX_BATCH || options.seconds > MAX_SECONDS || options.watchers < options.job_count ||
        options.portions < 1)
        fail("an option exceeds its limit, or there are fewer watchers than jobs");
}
