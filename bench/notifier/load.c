// The load client of `python -m bench.notifier`: watchers and reporters in one thread, over one epoll, so that it
// costs little of the core that it shares with Redis. Connects to loopback alone, never for long: see load.h's limits.
//
// What it does, in this order, and prints as one JSON object:
//   1. connects all watchers, which costs a handshake each, and waits, which shows what an idle one weighs;
//   2. has them watch (Headway's tokens), and waits again;
//   3. reports at a pace, first to warm up, then measured.
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "load.h"

enum { EVENTS = 1024, FIRST_WATCHERS = 50 };
static const double WARM_SECONDS = 2.0, PAUSE_SECONDS = 0.3;

struct options options = {
    .watch_path = "/", .report_path = "/", .origin = "http://127.0.0.1", .watchers = 1, .reporters = 1, .batch = 1,
    .outstanding = 1000000, .rate = 1, .settle_seconds = 0.3,
};
static int epoll_fd;

static _Noreturn void give_up(const char *reason)
{
    fprintf(stderr, "load: %s\n", reason);
    exit(2);
}

void follow(int fd, void *owner, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = owner};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

void change(int fd, void *owner, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = owner};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, fd, &event);
}

void wait_for_events(uint64_t until_ns)
{
    static struct epoll_event events[EVENTS];
    uint64_t now = now_ns(), left = until_ns > now ? until_ns - now : 0;
    struct timespec timeout = {(time_t)(left / 1000000000u), (long)(left % 1000000000u)};
    int count = epoll_pwait2(epoll_fd, events, EVENTS, &timeout, NULL);
    for (int i = 0; i < count; i++) {
        uintptr_t owner = (uintptr_t)events[i].data.ptr;
        if (owner & 1)
            on_reporter((struct reporter *)(owner & ~(uintptr_t)1));
        else
            on_watcher(events[i].data.ptr, events[i].events);
    }
}

int connect_to(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    address.sin_port = htons((uint16_t)port);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0)
        give_up(strerror(errno));
    return fd;
}

// Reads jobs, one a line: token, head, middle and tail, with tabs between.
static struct job *read_jobs(const char *path, int *count)
{
    static char line[1 << 16];
    struct job *jobs = NULL;
    FILE *file = fopen(path, "r");
    if (!file)
        give_up(path);
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
            give_up("a job has too few fields");
    }
    fclose(file);
    return jobs;
}

static int read_numbers(char *text, int *numbers, int most)
{
    int count = 0;
    for (char *word = strtok(text, ","); word && count < most; word = strtok(NULL, ","))
        numbers[count++] = atoi(word);
    return count;
}

static enum protocol read_protocol(const char *name)
{
    return !strcmp(name, "headway") ? HEADWAY : !strcmp(name, "socketio") ? SOCKETIO : PLAIN;
}

enum flag {
    PROTOCOL, WATCH_PORTS, REPORT_PORT, WATCH_PATH, REPORT_PATH, ORIGIN, KEY, WATCHERS, STUCK, JOBS, USE_JOBS, FILLER,
    FILLER_REPORTS, REPORTERS, BATCH, OUTSTANDING, RATE, SECONDS, SETTLE, SERVER, REDIS, FLAGS
};
static const char *const NAMES[FLAGS] = {
    "protocol", "watch-ports", "report-port", "watch-path", "report-path", "origin", "key", "watchers", "stuck", "jobs",
    "use-jobs", "filler", "filler-reports", "reporters", "batch", "outstanding", "rate", "seconds", "settle", "server",
    "redis"
};

static void read_option(enum flag flag, char *value)
{
    int ignored;
    switch (flag) {
    case PROTOCOL: options.protocol = read_protocol(value); break;
    case WATCH_PORTS: options.replicas = read_numbers(value, options.watch_ports, MOST_REPLICAS); break;
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
    case REPORTERS: options.reporters = atoi(value); break;
    case BATCH: options.batch = atoi(value); break;
    case OUTSTANDING: options.outstanding = atoi(value); break;
    case RATE: options.rate = atof(value); break;
    case SECONDS: options.seconds = atof(value); break;
    case SETTLE: options.settle_seconds = atof(value); break;
    case SERVER: options.server.count = read_numbers(value, options.server.ids, MOST_PROCESSES); break;
    case REDIS: options.redis.count = read_numbers(value, options.redis.ids, MOST_PROCESSES); break;
    case FLAGS: break;
    }
}

static void read_options(int count, char **words)
{
    struct option known[FLAGS + 1] = {0};
    int found;
    for (int i = 0; i < FLAGS; i++)
        known[i] = (struct option){NAMES[i], required_argument, NULL, 'A' + i};
    while ((found = getopt_long(count, words, "", known, NULL)) != -1) {
        if (found == '?')
            exit(2);
        read_option((enum flag)(found - 'A'), optarg);
    }
    if (!options.job_count || !options.replicas)
        give_up("--jobs and --watch-ports are needed");
    if (options.watchers + options.stuck > MOST_WATCHERS || options.reporters > MOST_REPORTERS ||
        options.batch > MOST_BATCH || options.seconds > MOST_SECONDS || options.watchers < options.job_count)
        give_up("more is asked for than this client does");
}

struct cost {
    uint64_t server_ns, redis_ns;
};

static struct cost cost(void)
{
    return (struct cost){cpu_ns(&options.server), cpu_ns(&options.redis)};
}

static double us_each(uint64_t from_ns, uint64_t to_ns, uint64_t count)
{
    return count ? (double)(to_ns - from_ns) / 1e3 / (double)count : 0;
}

// What a server loads, compiles or makes room for with its first connections is not theirs.
static void warm_up(void)
{
    int few = options.watchers < FIRST_WATCHERS ? options.watchers : FIRST_WATCHERS;
    if (open_watchers(0, few) && watch_all(0, few))
        wait_seconds(PAUSE_SECONDS);
    close_watchers(0, few);
    wait_seconds(PAUSE_SECONDS);
}

static bool connect_everyone(void)
{
    uint64_t count = (uint64_t)options.watchers;
    uint64_t empty = resident_bytes(&options.server), begun = cost().server_ns;
    bool complete = open_watchers(0, options.watchers);
    printf("\"upgrade_us\": %.3f, ", us_each(begun, cost().server_ns, count));
    wait_seconds(options.settle_seconds);
    uint64_t idle = resident_bytes(&options.server);
    begun = cost().server_ns;
    complete = complete && watch_all(0, options.watchers);
    printf("\"watch_us\": %.3f, ", us_each(begun, cost().server_ns, count));
    wait_seconds(options.settle_seconds);
    uint64_t watched = resident_bytes(&options.server);
    printf("\"idle_bytes\": %.1f, \"watched_bytes\": %.1f, ", ((double)idle - (double)empty) / (double)count,
           ((double)watched - (double)empty) / (double)count);
    return complete;
}

// Watchers that read nothing are given so much that what their server holds for them is at its limit.
static bool connect_stuck(void)
{
    int from = options.watchers, to = options.watchers + options.stuck;
    if (!open_watchers(from, to) || !watch_all(from, to))
        return false;
    stop_reading(from, to);
    open_reporters();
    fill();
    wait_seconds(PAUSE_SECONDS);
    return true;
}

static void measure_reports(void)
{
    double most = WARM_SECONDS < options.seconds ? WARM_SECONDS : options.seconds;
    open_reporters();
    report(most);
    wait_seconds(PAUSE_SECONDS);
    forget_deliveries();
    forget_reports();
    struct cost before = cost();
    report(options.seconds);
    struct cost after = cost();
    printf("\"delivery_us\": %.3f, \"report_us\": %.3f, \"redis_us\": %.3f, ",
           us_each(before.server_ns, after.server_ns, delivered()),
           us_each(before.server_ns, after.server_ns, reported()),
           us_each(before.redis_ns, after.redis_ns, reported()));
    printf("\"p50_us\": %lu, \"p99_us\": %lu, \"rate\": %.1f, \"seconds\": %.3f, ", (unsigned long)latency_us(0.5),
           (unsigned long)latency_us(0.99), (double)reported() / posting_seconds(), reporting_seconds());
}

int main(int count, char **words)
{
    read_options(count, words);
    prctl(PR_SET_TIMERSLACK, 1);  // a pace within the millisecond
    epoll_fd = epoll_create1(0);
    printf("{");
    warm_up();
    bool complete = (!options.stuck || connect_stuck()) && connect_everyone();
    if (complete && options.seconds > 0)
        measure_reports();
    printf("\"watching\": %d, \"lost\": %d, \"reported\": %lu, \"refused\": %lu, ", watching() - options.stuck,
           lost_watchers(), (unsigned long)reported(), (unsigned long)refused());
    printf("\"delivered\": %lu, \"expected\": %lu, ", (unsigned long)delivered(),
           (unsigned long)expected_deliveries());
    printf("\"complaint\": \"%s\"}\n", complaint());
    return 0;
}
