// The limit: what a delivery costs when a server does nothing but send(2). One epoll, one ready frame for all watchers
// of a job; no token, no record, no Redis, no limits, and HTTP only as the load client of this bench speaks it.
//
// GET /ws/<job> is upgraded; the body of POST /pub/<job> goes to its watchers. The only argument is the port.
#define _GNU_SOURCE
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 1024, DESCRIPTORS = 20000, JOBS = 5000, REQUEST = 1 << 17 };

// To the key of RFC 6455's example, which the load client always sends.
static const char UPGRADED[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                               "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
static const char TAKEN[] = "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n";

struct job {
    int *watchers;  // descriptors
    int count, room;
};

static struct job jobs[JOBS];
static int job_watched[DESCRIPTORS];  // job + 1, 0 for none
static int place[DESCRIPTORS];        // among the watchers of its job
static int epoll_fd;

static void join(int fd, int number)
{
    struct job *job = &jobs[number];
    if (job->count == job->room) {
        job->room = job->room ? 2 * job->room : 1;
        job->watchers = realloc(job->watchers, (size_t)job->room * sizeof(int));
    }
    job_watched[fd] = number + 1;
    place[fd] = job->count;
    job->watchers[job->count++] = fd;
}

static void leave(int fd)
{
    if (job_watched[fd]) {
        struct job *job = &jobs[job_watched[fd] - 1];
        int last = job->watchers[--job->count];
        job->watchers[place[fd]] = last;
        place[last] = place[fd];
        job_watched[fd] = 0;
    }
    close(fd);
}

static size_t make_frame(unsigned char *frame, const char *text, size_t size)
{
    size_t n = 0;
    frame[n++] = 0x81;
    if (size < 126) {
        frame[n++] = (unsigned char)size;
    } else {
        frame[n++] = 126;
        frame[n++] = (unsigned char)(size >> 8);
        frame[n++] = (unsigned char)size;
    }
    memcpy(frame + n, text, size);
    return n + size;
}

static void publish(const struct job *job, const char *text, size_t size)
{
    static unsigned char frame[REQUEST];
    size_t length = make_frame(frame, text, size);
    for (int i = 0; i < job->count; i++)
        send(job->watchers[i], frame, length, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static int read_job(const char *request)
{
    const char *digits = strpbrk(request, "0123456789");
    int number = digits ? atoi(digits) : 0;
    return number >= 0 && number < JOBS ? number : 0;
}

// A request comes in one piece, since it is small and loopback delivers what one send(2) was given.
static void serve(int fd)
{
    static char request[REQUEST];
    ssize_t size = recv(fd, request, sizeof request - 1, 0);
    if (size <= 0) {
        leave(fd);
        return;
    }
    request[size] = 0;
    const char *body = strstr(request, "\r\n\r\n");
    if (job_watched[fd] || !body)
        return;
    if (request[0] == 'G') {
        join(fd, read_job(request));
        send(fd, UPGRADED, sizeof UPGRADED - 1, MSG_NOSIGNAL);
    } else {
        publish(&jobs[read_job(request)], body + 4, (size_t)(request + size - body - 4));
        send(fd, TAKEN, sizeof TAKEN - 1, MSG_NOSIGNAL);
    }
}

static void follow(int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

static void take_connections(int listener)
{
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        if (fd >= DESCRIPTORS) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        follow(fd);
    }
}

static int listen_on(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    address.sin_port = htons((unsigned short)port);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 1024) != 0) {
        perror("limit");
        exit(1);
    }
    return fd;
}

int main(int count, char **words)
{
    static struct epoll_event events[EVENTS];
    if (count != 2)
        return 2;
    int listener = listen_on(atoi(words[1]));
    epoll_fd = epoll_create1(0);
    follow(listener);
    for (;;) {
        int ready = epoll_wait(epoll_fd, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.fd == listener)
                take_connections(listener);
            else
                serve(events[i].data.fd);
        }
    }
}
