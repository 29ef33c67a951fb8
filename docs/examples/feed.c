/* Publishes a reading over the control socket: cc -o feed feed.c && ./feed */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

int main(int argc, char **argv)
{
    const char *path = argc > 1 ? argv[1] : "/run/edge-agent/control.sock";
    struct sockaddr_un agent = {.sun_family = AF_UNIX};
    char answer[1024];
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    snprintf(agent.sun_path, sizeof agent.sun_path, "%s", path);
    if (fd < 0 || connect(fd, (struct sockaddr *)&agent, sizeof agent) < 0) {
        perror(path);
        return 69;
    }
    dprintf(fd, "{\"jsonrpc\": \"2.0\", \"id\": 1, \"method\": \"publish\", \"params\": "
                "{\"channel\": \"data/temperature\", \"data\": {\"c\": %.1f}}}\n", 21.5);
    if (!fgets(answer, sizeof answer, fdopen(fd, "r"))) {
        fputs("no answer: nobody knows whether it is published\n", stderr);
        return 69;
    }
    fputs(answer, stdout);
    return strstr(answer, "\"result\"") ? 0 : 1;
}
