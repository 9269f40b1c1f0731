/* What the kernel takes for a delivery: a WebSocket server that does nothing but `send` one ready frame per client.
 *
 *   loop BEFORE AFTER      what stands in the text before and after the number of the message
 *
 * Prints `port N`. Commands and answers as in servers.py: `prepare ROUNDS BURST FANOUT COUNT` -> `prepared`,
 * `go` -> `done`.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MOST 65536

static int state[MOST], open_fds[MOST], open_count, rounds, burst;
static char buffer[65536];
static const char *before, *after;

static size_t frame(char *out, const char *text) {
    size_t size = strlen(text), at = 0;
    out[at++] = (char)0x81;
    if (size < 126) out[at++] = size;
    else out[at++] = 126, out[at++] = size >> 8, out[at++] = size & 255;
    memcpy(out + at, text, size);
    return at + size;
}

static void put(int fd, const char *data, size_t size) {
    while (size) {
        ssize_t done = send(fd, data, size, MSG_NOSIGNAL);
        if (done < 0 && errno == EAGAIN) {
            struct pollfd wait = {.fd = fd, .events = POLLOUT};
            poll(&wait, 1, 1000);
        } else if (done <= 0) {
            return;
        } else {
            data += done, size -= done;
        }
    }
}

static void go(void) {
    char text[1024], out[1100];
    for (int round = 0; round < rounds * burst; round++) {
        snprintf(text, sizeof text, "%s%d%s", before, round, after);
        size_t size = frame(out, text);
        for (int i = 0; i < open_count; i++) put(open_fds[i], out, size);
        struct timespec rest = {.tv_nsec = 50 * 1000 * 1000};
        nanosleep(&rest, NULL);
    }
    puts("done");
}

static void hear(int fd) {
    ssize_t got = read(fd, buffer, sizeof buffer);
    if (got <= 0) {
        close(fd);
        return;
    }
    char out[256];
    if (state[fd] == 0) {
        static const char answer[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                                     "Connection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n";
        put(fd, answer, sizeof answer - 1);
        state[fd] = 1;
    } else if (state[fd] == 1) {
        put(fd, out, frame(out, "{\"op\":\"welcome\"}"));
        state[fd] = 2;
        open_fds[open_count++] = fd;
    }
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    before = argv[1], after = argv[2];
    int listener = socket(AF_INET, SOCK_STREAM, 0), epoll = epoll_create1(0), fanout, count;
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t size = sizeof at;
    if (bind(listener, (struct sockaddr *)&at, size) || listen(listener, 65535)) return 1;
    getsockname(listener, (struct sockaddr *)&at, &size);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[256];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    event.data.fd = 0;
    epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &event);
    printf("port %d\n", ntohs(at.sin_port));
    for (;;) {
        fflush(stdout);
        int ready = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                int client = accept4(listener, NULL, NULL, SOCK_NONBLOCK), one = 1;
                setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                state[client] = 0;
                event.data.fd = client;
                epoll_ctl(epoll, EPOLL_CTL_ADD, client, &event);
            } else if (fd == 0) {
                ssize_t got = read(0, buffer, sizeof buffer - 1);
                if (got <= 0) return 0;
                buffer[got] = 0;
                if (sscanf(buffer, "prepare %d %d %d %d", &rounds, &burst, &fanout, &count) == 4) puts("prepared");
                else if (!strncmp(buffer, "go", 2)) go();
                else return 0;
            } else {
                hear(fd);
            }
        }
    }
}
