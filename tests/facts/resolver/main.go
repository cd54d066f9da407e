// Prints what the API server's own resolver says of each request on standard input.
// One request a line: the method, a space, the target. One JSON object a line comes out.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/request"
)

func main() {
	resolver := request.RequestInfoFactory{
		APIPrefixes:          sets.NewString("api", "apis"),
		GrouplessAPIPrefixes: sets.NewString("api"),
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		method, target, _ := strings.Cut(lines.Text(), " ")
		req, err := http.NewRequest(method, "https://cluster"+target, nil)
		if err != nil {
			fmt.Println("null")
			continue
		}
		info, err := resolver.NewRequestInfo(req)
		if err != nil {
			fmt.Println("null")
			continue
		}
		resource := info.Resource
		if info.Subresource != "" {
			resource += "/" + info.Subresource
		}
		out, _ := json.Marshal(map[string]any{
			"is_resource": info.IsResourceRequest, "verb": info.Verb, "group": info.APIGroup,
			"version": info.APIVersion, "namespace": info.Namespace, "resource": resource, "name": info.Name,
		})
		fmt.Println(string(out))
	}
}
