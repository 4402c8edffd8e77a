// The load client of `python -m bench.notifier`: watchers and reporters in one thread, over one epoll, so that it
// costs little of the core that it shares with Redis. Connects to loopback alone, never for long: see load.h's limits.
//
// It obeys its commands, one a line on standard input, and answers each with a line, which is a JSON object:
//   open    connects a portion of the watchers, which costs a handshake each; all open, it waits, and weighs an idle one
//   watch   has a portion of them watch (Headway's tokens), and weighs likewise
//   report  reports at a pace, first to warm up, then measured
// Between its commands it answers pings, so that many of these clients, each with a server of its own, can take turns.
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load.h"

enum { EVENTS = 1024, FIRST_WATCHERS = 50 };
#define FIRST_WARM 2.0 // s of reports before anything is measured: by then, what is to be compiled is
#define WARM 0.5       // after others had their turns
#define PAUSE 0.1

static int epoll_fd, opened, asked;  // watchers that were to open, and to watch
static bool told;                    // a command can be read
static uint64_t empty;               // bytes that the server has resident without a connection

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
        if (!owner)
            told = true;
        else if (owner & 1)
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
        wait_seconds(PAUSE);
    close_watchers(0, few);
    wait_seconds(PAUSE);
}

static int portion_after(int count)
{
    int size = (options.watchers + options.portions - 1) / options.portions, left = options.watchers - count;
    return size < left ? size : left;
}

static void tell_weight(const char *name)
{
    wait_seconds(options.settle_seconds);
    double bytes = (double)resident_bytes(&options.server) - (double)empty;
    printf("\"%s\": %.1f, ", name, bytes / options.watchers);
}

// Has the next portion of the watchers open or watch, and tells what each costs; after the last, what each weighs.
static void take_portion(int *count, bool (*take)(int, int), const char *cost_name, const char *weight_name)
{
    int size = portion_after(*count);
    uint64_t begun = cost().server_ns;
    take(*count, *count + size);
    printf("\"%s\": %.3f, ", cost_name, us_each(begun, cost().server_ns, (uint64_t)size));
    *count += size;
    if (*count == options.watchers)
        tell_weight(weight_name);
}

// Watchers that read nothing are given so much that what their server holds for them is at its limit.
static void connect_stuck(void)
{
    int from = options.watchers, to = options.watchers + options.stuck;
    if (!open_watchers(from, to) || !watch_all(from, to))
        return;
    stop_reading(from, to);
    open_reporters();
    fill();
    close_reporters();
    wait_seconds(PAUSE);
}

static void measure_reports(void)
{
    static double warm = FIRST_WARM;
    open_reporters();
    report(warm);
    warm = WARM;
    wait_seconds(PAUSE);
    forget_deliveries();
    forget_reports();
    struct cost before = cost();
    report(options.seconds);
    struct cost after = cost();
    close_reporters();
    printf("\"delivery_us\": %.3f, \"report_us\": %.3f, \"redis_us\": %.3f, ",
           us_each(before.server_ns, after.server_ns, delivered()),
           us_each(before.server_ns, after.server_ns, reported()),
           us_each(before.redis_ns, after.redis_ns, reported()));
    printf("\"p50_us\": %lu, \"p99_us\": %lu, \"rate\": %.1f, ", (unsigned long)latency_us(0.5),
           (unsigned long)latency_us(0.99), (double)reported() / posting_seconds());
    printf("\"reported\": %lu, \"refused\": %lu, \"delivered\": %lu, \"expected\": %lu, ", (unsigned long)reported(),
           (unsigned long)refused(), (unsigned long)delivered(), (unsigned long)expected_deliveries());
}

// A peer's watchers watch as soon as they are open.
static void obey(const char *command)
{
    printf("{");
    if (!strcmp(command, "open\n"))
        take_portion(&opened, open_watchers, "upgrade_us", "idle_bytes");
    else if (!strcmp(command, "watch\n"))
        take_portion(&asked, watch_all, "watch_us", "watched_bytes");
    else if (!strcmp(command, "report\n"))
        measure_reports();
    else
        give_up("no such command");
    int watched = options.stuck + (options.protocol == HEADWAY ? asked : opened);
    printf("\"unwatching\": %d, \"lost\": %d, \"complaint\": \"%s\"}\n", watched - watching(), lost_watchers(),
           complaint());
    fflush(stdout);
}

static bool await_command(char *command, int size)
{
    for (told = false; !told;)
        wait_for_events(now_ns() + 1000000000u);
    return fgets(command, size, stdin);
}

int main(int count, char **words)
{
    char command[16];
    read_options(count, words);
    prctl(PR_SET_TIMERSLACK, 1);  // a pace within the millisecond
    epoll_fd = epoll_create1(0);
    follow(STDIN_FILENO, NULL, EPOLLIN);
    warm_up();
    if (options.stuck)
        connect_stuck();
    empty = resident_bytes(&options.server);
    while (await_command(command, sizeof command))
        obey(command);
    return 0;
}
