// The load client of `python -m bench.notifier`. Watchers and reporters share one thread and one epoll instance, so
// that it uses little of the core that it shares with Redis. It connects only to loopback; load.h has its limits.
//
// It reads commands from standard input, one per line, and replies to each with a line of JSON:
//   open    connects a portion of the watchers and measures the handshakes; after the last, the memory per connection
//   watch   subscribes a portion of them (with Headway's tokens) and measures likewise
//   report  posts reports at the configured rate, first to warm up, then measured
// Between commands it answers pings, so that several of these clients, each with its own server, can take turns.
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
#define FIRST_WARMUP_S 2.0 // of reports before the first measurement: just-in-time compilers are done by then
#define WARMUP_S 0.5       // of reports in later turns
#define PAUSE_S 0.1

static int epoll_fd, opened, subscribed;  // watchers that should be open, and subscribed
static bool command_ready;                // a command can be read from standard input
static uint64_t empty_server_bytes;       // the server's resident memory without connections

void epoll_add(int fd, void *owner, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = owner};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

void epoll_modify(int fd, void *owner, uint32_t events)
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
            command_ready = true;
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
        fail(strerror(errno));
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

// The first connections make a server load, compile and allocate what should not count as the cost of later ones.
static void warm_up(void)
{
    int few = options.watchers < FIRST_WATCHERS ? options.watchers : FIRST_WATCHERS;
    if (open_watchers(0, few) && subscribe_watchers(0, few))
        wait_seconds(PAUSE_S);
    close_watchers(0, few);
    wait_seconds(PAUSE_S);
}

static int portion_after(int count)
{
    int size = (options.watchers + options.portions - 1) / options.portions, left = options.watchers - count;
    return size < left ? size : left;
}

static void print_memory(const char *name)
{
    wait_seconds(options.settle_seconds);
    double bytes = (double)resident_bytes(&options.server) - (double)empty_server_bytes;
    printf("\"%s\": %.1f, ", name, bytes / options.watchers);
}

// Connects or subscribes the next portion of the watchers and prints the CPU time of each; after the last portion, also
// the memory of each.
static void run_portion(int *count, bool (*run)(int, int), const char *cpu_name, const char *memory_name)
{
    int size = portion_after(*count);
    uint64_t begun = cost().server_ns;
    run(*count, *count + size);
    printf("\"%s\": %.3f, ", cpu_name, us_each(begun, cost().server_ns, (uint64_t)size));
    *count += size;
    if (*count == options.watchers)
        print_memory(memory_name);
}

// Sends slow consumers so much that the server's buffers for them are full.
static void connect_slow_consumers(void)
{
    int from = options.watchers, to = options.watchers + options.stuck;
    if (!open_watchers(from, to) || !subscribe_watchers(from, to))
        return;
    stop_reading(from, to);
    open_reporters();
    fill();
    close_reporters();
    wait_seconds(PAUSE_S);
}

static void measure_reports(void)
{
    static double warm = FIRST_WARMUP_S;
    open_reporters();
    report(warm);
    warm = WARMUP_S;
    wait_seconds(PAUSE_S);
    reset_deliveries();
    reset_reports();
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

// A peer's watchers are subscribed as soon as they are open.
static void run_command(const char *command)
{
    printf("{");
    if (!strcmp(command, "open\n"))
        run_portion(&opened, open_watchers, "upgrade_us", "idle_bytes");
    else if (!strcmp(command, "watch\n"))
        run_portion(&subscribed, subscribe_watchers, "watch_us", "watched_bytes");
    else if (!strcmp(command, "report\n"))
        measure_reports();
    else
        fail("unknown command");
    int watched = options.stuck + (options.protocol == HEADWAY ? subscribed : opened);
    printf("\"unwatching\": %d, \"lost\": %d, \"first_error\": \"%s\"}\n", watched - subscribed_watchers(),
           lost_watchers(), first_error());
    fflush(stdout);
}

static bool await_command(char *command, int size)
{
    for (command_ready = false; !command_ready;)
        wait_for_events(now_ns() + 1000000000u);
    return fgets(command, size, stdin);
}

int main(int count, char **arguments)
{
    char command[16];
    read_options(count, arguments);
    prctl(PR_SET_TIMERSLACK, 1);  // timeouts shorter than a millisecond are exact
    epoll_fd = epoll_create1(0);
    epoll_add(STDIN_FILENO, NULL, EPOLLIN);
    warm_up();
    if (options.stuck)
        connect_slow_consumers();
    empty_server_bytes = resident_bytes(&options.server);
    while (await_command(command, sizeof command))
        run_command(command);
    return 0;
}
