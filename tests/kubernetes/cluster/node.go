package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	remote "k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	client "k8s.io/client-go/tools/remotecommand"
	"k8s.io/kubelet/pkg/cri/streaming/portforward"
	"k8s.io/kubelet/pkg/cri/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

const (
	nodeName  = "node"
	idle      = 5 * time.Minute
	creation  = 30 * time.Second
	lineEvery = 100 * time.Millisecond
)

// runtime runs a container's commands as processes of this machine.
type runtime struct{}

func (runtime) ExecInContainer(ctx context.Context, _ string, _ types.UID, _ string, command []string, in io.Reader, out, err io.WriteCloser, _ bool, _ <-chan client.TerminalSize, _ time.Duration) error {
	process := exec.CommandContext(ctx, command[0], command[1:]...)
	process.Stdin, process.Stdout, process.Stderr = in, out, err
	failed := process.Run()
	if exit, ok := failed.(*exec.ExitError); ok {
		return utilexec.CodeExitError{Err: exit, Code: exit.ExitCode()}
	}
	return failed
}

func (runtime) AttachContainer(_ context.Context, _ string, _ types.UID, _ string, in io.Reader, out, _ io.WriteCloser, _ bool, _ <-chan client.TerminalSize) error {
	fmt.Fprintln(out, "attached")
	if in != nil {
		io.Copy(out, in)
	}
	return nil
}

func (runtime) PortForward(_ context.Context, _ string, _ types.UID, port int32, stream io.ReadWriteCloser) error {
	service, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	defer service.Close()
	go func() {
		io.Copy(service, stream)
		service.(*net.TCPConn).CloseWrite()
	}()
	_, err = io.Copy(stream, service)
	return err
}

// logs prints three lines, and with follow one more every lineEvery until the reader leaves.
func logs(w http.ResponseWriter, request *http.Request) {
	pod, container := path(request)
	for line := 1; line <= 3 || request.FormValue("follow") == "true"; line++ {
		if _, err := fmt.Fprintf(w, "%s %s line %d\n", pod, container, line); err != nil {
			return
		}
		w.(http.Flusher).Flush()
		if line < 3 {
			continue
		}
		select {
		case <-request.Context().Done():
			return
		case <-time.After(lineEvery):
		}
	}
}

// startKubelet gives the port.
func startKubelet(folder string, keys *keys) int32 {
	pair, err := tls.LoadX509KeyPair(filepath.Join(folder, "server.crt"), filepath.Join(folder, "server.key"))
	check(err)
	routes := http.NewServeMux()
	routes.HandleFunc("/containerLogs/", logs)
	routes.HandleFunc("/exec/", func(w http.ResponseWriter, request *http.Request) {
		pod, container := path(request)
		options, err := remotecommand.NewOptions(request)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		command := request.Form["command"]
		remotecommand.ServeExec(w, request, runtime{}, pod, "", container, command, options, idle, creation, remote.SupportedStreamingProtocols)
	})
	routes.HandleFunc("/attach/", func(w http.ResponseWriter, request *http.Request) {
		pod, container := path(request)
		options, err := remotecommand.NewOptions(request)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		remotecommand.ServeAttach(w, request, runtime{}, pod, "", container, options, idle, creation, remote.SupportedStreamingProtocols)
	})
	routes.HandleFunc("/portForward/", func(w http.ResponseWriter, request *http.Request) {
		pod, _ := path(request)
		options, err := portforward.NewV4Options(request)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		portforward.ServePortForward(w, request, runtime{}, pod, "", options, idle, creation, portforward.SupportedProtocols)
	})
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{pair},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    keys.pool(),
	})
	check(err)
	go func() { log.Fatal(http.Serve(listener, routes)) }()
	return int32(listener.Addr().(*net.TCPAddr).Port)
}

// runNode registers the node, and lets its pods run and end.
func runNode(api *kubernetes.Clientset, port int32) error {
	ctx := context.Background()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName}}
	node, err := api.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}}
	node.Status.DaemonEndpoints.KubeletEndpoint.Port = port
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	if _, err := api.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
		return err
	}
	pods, err := api.CoreV1().Pods("").Watch(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + nodeName})
	if err != nil {
		return err
	}
	go func() {
		for event := range pods.ResultChan() {
			pod, ok := event.Object.(*corev1.Pod)
			if ok && event.Type != watch.Deleted {
				step(api, pod)
			}
		}
		log.Fatal("the watch of the pods ended")
	}()
	return nil
}

// step does what a kubelet would do next with a pod.
func step(api *kubernetes.Clientset, pod *corev1.Pod) {
	ctx := context.Background()
	if pod.DeletionTimestamp != nil {
		now := int64(0)
		api.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now})
		return
	}
	if pod.Status.Phase == corev1.PodRunning {
		return
	}
	pod = pod.DeepCopy()
	pod.Status.Phase = corev1.PodRunning
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	for _, container := range pod.Spec.Containers {
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: container.Name, Ready: true, Image: container.Image,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}},
		})
	}
	if _, err := api.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil {
		log.Print("status of ", pod.Name, ": ", err)
	}
}
